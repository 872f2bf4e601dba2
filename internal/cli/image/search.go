package image

import (
	"context"
	"strconv"
	"strings"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

// NewSearch is `search`.
func NewSearch(sh *shell.Shell) *cobra.Command {
	filter := opts.NewFilterOpt()
	var limit int
	var noTrunc bool
	var format string
	cmd := &cobra.Command{
		Use:   "search [OPTIONS] TERM",
		Short: "Search Docker Hub, or with HOST/TERM another registry, for images",
		Args:  shell.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			auth, err := sh.RegistryAuth(cmd.Context(), searchName(args[0]))
			if err != nil {
				return err
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			res, err := api.ImageSearch(cmd.Context(), args[0], client.ImageSearchOptions{
				RegistryAuth: auth, Filters: filter.Value(), Limit: limit,
				PrivilegeFunc: func(context.Context) (string, error) { return auth, nil },
			})
			if err != nil {
				return err
			}
			return writeSearch(formatter.Context{Output: sh.Out, Format: searchFormat(format), Trunc: !noTrunc}, res.Items)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.VarP(&filter, "filter", "f", "Conditions that the images must meet")
	f.StringVar(&format, "format", "", show.FormatHelp)
	f.IntVar(&limit, "limit", 0, "Max number of search results")
	f.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	return cmd
}

// searchName is an image name of the registry that a term is looked for in.
func searchName(term string) string {
	if host, _, ok := strings.Cut(term, "/"); ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
		return host + "/x"
	}
	return "x"
}

func searchFormat(source string) formatter.Format {
	if source != "" && source != formatter.TableFormatKey {
		return formatter.Format(source)
	}
	return "table {{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}"
}

// hit is one row of search, as templates see it.
type hit struct {
	formatter.HeaderContext
	trunc bool
	json  bool // truth in full words
	r     registry.SearchResult
}

func writeSearch(ctx formatter.Context, items []registry.SearchResult) error {
	head := &hit{}
	head.Header = formatter.SubHeaderContext{
		"Name": formatter.NameHeader, "Description": formatter.DescriptionHeader, "StarCount": "STARS", "IsOfficial": "OFFICIAL",
	}
	return ctx.Write(head, func(row func(formatter.SubContext) error) error {
		for _, r := range items {
			if err := row(&hit{trunc: ctx.Trunc, r: r}); err != nil {
				return err
			}
		}
		return nil
	})
}

// MarshalJSON is for --format json.
func (h *hit) MarshalJSON() ([]byte, error) {
	h.json = true
	return formatter.MarshalJSON(h)
}

// Name of the repository.
func (h *hit) Name() string { return h.r.Name }

// Description in one line.
func (h *hit) Description() string {
	text := strings.Join(strings.Fields(h.r.Description), " ")
	if h.trunc {
		text = formatter.Ellipsis(text, 45)
	}
	return text
}

// StarCount is how many people like it.
func (h *hit) StarCount() string { return strconv.Itoa(h.r.StarCount) }

// IsOfficial is [OK] or empty, in JSON true or false.
func (h *hit) IsOfficial() string {
	switch {
	case h.json:
		return strconv.FormatBool(h.r.IsOfficial)
	case h.r.IsOfficial:
		return "[OK]"
	}
	return ""
}
