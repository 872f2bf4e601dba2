package network

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/opts"
	"github.com/fvbommel/sortorder"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

type lsFlags struct {
	quiet, noTrunc bool
	format         string
	filter         opts.FilterOpt
}

// NewLs is `network ls`.
func NewLs(sh *shell.Shell) *cobra.Command {
	l := lsFlags{filter: opts.NewFilterOpt()}
	cmd := &cobra.Command{
		Use:         "ls [OPTIONS]",
		Aliases:     []string{"list"},
		Short:       "List networks",
		Args:        shell.NoArgs,
		Annotations: shell.Aliases("network ls", "network list"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return l.run(cmd.Context(), sh)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.BoolVarP(&l.quiet, "quiet", "q", false, "Only display network IDs")
	f.BoolVar(&l.noTrunc, "no-trunc", false, "Do not truncate the output")
	f.StringVar(&l.format, "format", "", show.FormatHelp)
	f.VarP(&l.filter, "filter", "f", `Filter values (e.g. "driver=bridge")`)
	shell.CompleteFilter(sh, cmd, "filter", map[string]shell.Names{
		"dangling": shell.Bools, "driver": allDrivers, "id": nil, "label": nil, "name": Names,
		"scope": shell.Fixed("global", "local", "swarm"), "type": shell.Fixed("builtin", "custom"),
	})
	return cmd
}

func (l *lsFlags) run(ctx context.Context, sh *shell.Shell) error {
	api, err := sh.API()
	if err != nil {
		return err
	}
	r, err := api.NetworkList(ctx, client.NetworkListOptions{Filters: l.filter.Value()})
	if err != nil {
		return err
	}
	slices.SortFunc(r.Items, func(a, b network.Summary) int {
		switch {
		case a.Name == b.Name:
			return 0
		case sortorder.NaturalLess(a.Name, b.Name):
			return -1
		}
		return 1
	})
	format := formatter.Format(l.format)
	switch {
	case l.format != "" && l.format != formatter.TableFormatKey:
	case l.quiet:
		format = formatter.DefaultQuietFormat
	default:
		format = "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}"
	}
	c := formatter.Context{Output: sh.Out, Format: format, Trunc: !l.noTrunc}
	head := &row{}
	head.Header = formatter.SubHeaderContext{
		"ID": "NETWORK ID", "Name": formatter.NameHeader, "Driver": formatter.DriverHeader, "Scope": formatter.ScopeHeader,
		"IPv4": "IPV4", "IPv6": "IPV6", "Internal": "INTERNAL", "Labels": formatter.LabelsHeader, "CreatedAt": formatter.CreatedAtHeader,
	}
	return c.Write(head, func(write func(formatter.SubContext) error) error {
		for _, n := range r.Items {
			if err := write(&row{trunc: c.Trunc, n: n}); err != nil {
				return err
			}
		}
		return nil
	})
}

// row is one network, as templates see it.
type row struct {
	formatter.HeaderContext
	trunc bool
	n     network.Summary
}

// MarshalJSON makes --format json show the columns.
func (r *row) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

// ID of the network.
func (r *row) ID() string {
	if r.trunc {
		return formatter.TruncateID(r.n.ID)
	}
	return r.n.ID
}

// Name of the network.
func (r *row) Name() string { return r.n.Name }

// Driver that made it.
func (r *row) Driver() string { return r.n.Driver }

// Scope is local or swarm.
func (r *row) Scope() string { return r.n.Scope }

// IPv4 says whether it has addresses of that family.
func (r *row) IPv4() string { return strconv.FormatBool(r.n.EnableIPv4) }

// IPv6 says whether it has addresses of that family.
func (r *row) IPv6() string { return strconv.FormatBool(r.n.EnableIPv6) }

// Internal networks have no way out.
func (r *row) Internal() string { return strconv.FormatBool(r.n.Internal) }

// Labels as k=v, sorted.
func (r *row) Labels() string {
	out := make([]string, 0, len(r.n.Labels))
	for k, v := range r.n.Labels {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// Label is the value of one label.
func (r *row) Label(name string) string { return r.n.Labels[name] }

// CreatedAt is the time of creation.
func (r *row) CreatedAt() string { return r.n.Created.String() }
