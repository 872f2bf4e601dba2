package container

import (
	"context"
	"fmt"
	"io"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/opts"
	"github.com/docker/cli/templates"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

type psFlags struct {
	quiet, size, sizeGiven, all, noTrunc, latest, reach bool
	last                                                int
	format                                              string
	filter                                              opts.FilterOpt
}

// NewPs is `ps`.
func NewPs(sh *shell.Shell) *cobra.Command {
	p := psFlags{filter: opts.NewFilterOpt()}
	cmd := &cobra.Command{
		Use:         "ps [OPTIONS]",
		Short:       "List containers",
		Args:        shell.NoArgs,
		Annotations: shell.Aliases("container ls", "container list", "container ps", "ps"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p.sizeGiven = cmd.Flags().Changed("size")
			return p.run(cmd.Context(), sh)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.BoolVarP(&p.quiet, "quiet", "q", false, "Only display container IDs")
	f.BoolVarP(&p.size, "size", "s", false, "Display total file sizes")
	f.BoolVarP(&p.all, "all", "a", false, "Show all containers (default: only running ones)")
	f.BoolVar(&p.noTrunc, "no-trunc", false, "Don't truncate output")
	f.BoolVarP(&p.latest, "latest", "l", false, "Show the container created last, in any state")
	f.BoolVar(&p.reach, "reach", false, "Show of each published port who can reach it")
	f.IntVarP(&p.last, "last", "n", -1, "Show the n containers created last, in any state")
	f.StringVar(&p.format, "format", "", show.FormatHelp)
	f.VarP(&p.filter, "filter", "f", "Conditions that the containers must meet")
	shell.CompleteFilter(sh, cmd, "filter", psFilters)
	return cmd
}

// newLs is `container ls`: ps with other names.
func newLs(sh *shell.Shell) *cobra.Command {
	cmd := NewPs(sh)
	cmd.Use, cmd.Aliases = "ls [OPTIONS]", []string{"ps", "list"}
	return cmd
}

func (p *psFlags) run(ctx context.Context, sh *shell.Shell) error {
	if p.format == "" {
		p.format = sh.Config().PsFormat
	} else if p.quiet {
		fmt.Fprintln(sh.Err, "WARNING: Ignoring custom format, because both --format and --quiet are set.")
	}
	o := client.ContainerListOptions{All: p.all, Limit: p.last, Size: p.size, Filters: p.filter.Value()}
	if p.latest && p.last == -1 {
		o.Limit = 1
	}
	if p.format != "" {
		used, err := usesSize(p.format)
		if err != nil {
			return err
		}
		// Sizes cost the engine a walk over files, so they are asked for only
		// when somebody looks at them.
		if used && !p.quiet && !p.sizeGiven {
			o.Size = true
		}
	}
	api, err := sh.API()
	if err != nil {
		return err
	}
	res, err := api.ContainerList(ctx, o)
	if err != nil {
		return err
	}
	if p.reach {
		return p.writeReach(ctx, sh, api, res.Items)
	}
	return formatter.ContainerWrite(formatter.Context{
		Output: sh.Out, Format: formatter.NewContainerFormat(p.format, p.quiet, o.Size), Trunc: !p.noTrunc,
	}, res.Items)
}

// usesSize finds out whether a template looks at .Size by running it.
func usesSize(format string) (bool, error) {
	tmpl, err := templates.Parse(format)
	if err != nil {
		return false, fmt.Errorf("failed to parse template: %w", err)
	}
	probe := formatter.NewContainerContext()
	if err := tmpl.Execute(io.Discard, probe); err != nil {
		return false, fmt.Errorf("failed to execute template: %w", err)
	}
	_, used := probe.FieldsUsed["Size"]
	return used, nil
}
