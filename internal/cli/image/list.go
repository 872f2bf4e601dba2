package image

import (
	"context"
	"fmt"

	"github.com/distribution/reference"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

type listFlags struct {
	quiet, all, noTrunc, digests, asTree bool
	format                               string
	filter                               opts.FilterOpt
}

// NewImages is `images`.
func NewImages(sh *shell.Shell) *cobra.Command {
	l := listFlags{filter: opts.NewFilterOpt()}
	cmd := &cobra.Command{
		Use:         "images [OPTIONS] [REPOSITORY[:TAG]]",
		Short:       "List images",
		Args:        shell.MaxArgs(1),
		Annotations: shell.Aliases("image ls", "image list", "images"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return l.run(cmd.Context(), sh, args)
		},
		ValidArgsFunction: shell.Complete(sh, 1, Names),
	}
	f := cmd.Flags()
	f.BoolVarP(&l.quiet, "quiet", "q", false, "Only show image IDs")
	f.BoolVarP(&l.all, "all", "a", false, "Show intermediate images too")
	f.BoolVar(&l.noTrunc, "no-trunc", false, "Don't truncate output")
	f.BoolVar(&l.digests, "digests", false, "Show digests")
	f.BoolVar(&l.asTree, "tree", false, "List multi-platform images as a tree")
	f.StringVar(&l.format, "format", "", show.FormatHelp)
	f.VarP(&l.filter, "filter", "f", "Conditions that the images must meet")
	return cmd
}

func (l *listFlags) run(ctx context.Context, sh *shell.Shell, args []string) error {
	filters := l.filter.Value()
	if len(args) == 1 {
		filters = filters.Clone().Add("reference", args[0])
	}
	if l.asTree {
		for name, set := range map[string]bool{"quiet": l.quiet, "digests": l.digests, "format": l.format != ""} {
			if set {
				return fmt.Errorf("--%s is not yet supported with --tree", name)
			}
		}
		return l.tree(ctx, sh, filters)
	}
	format := l.format
	if format == "" && !l.quiet {
		format = sh.Config().ImagesFormat
	}
	if format == "" {
		format = formatter.TableFormatKey
	}
	api, err := sh.API()
	if err != nil {
		return err
	}
	res, err := api.ImageList(ctx, client.ImageListOptions{All: l.all, Filters: filters})
	if err != nil {
		return err
	}
	return formatter.ImageWrite(formatter.ImageContext{
		Context: formatter.Context{
			Output: sh.Out, Format: formatter.NewImageFormat(format, l.quiet, l.digests), Trunc: !l.noTrunc,
		},
		Digest: l.digests,
	}, byRepository(res.Items))
}

// byRepository gives every repository of an image its own row, in the order
// of the engine's answer; the formatter would shuffle them.
func byRepository(items []image.Summary) []image.Summary {
	var out []image.Summary
	for _, i := range items {
		rows := map[string]*image.Summary{}
		var order []string
		row := func(ref string) *image.Summary {
			name := ref
			if n, err := reference.ParseNormalizedNamed(ref); err == nil {
				name = n.Name()
			}
			if rows[name] == nil {
				r := i
				r.RepoTags, r.RepoDigests = nil, nil
				rows[name] = &r
				order = append(order, name)
			}
			return rows[name]
		}
		for _, t := range i.RepoTags {
			r := row(t)
			r.RepoTags = append(r.RepoTags, t)
		}
		for _, d := range i.RepoDigests {
			r := row(d)
			r.RepoDigests = append(r.RepoDigests, d)
		}
		if len(order) < 2 {
			out = append(out, i)
			continue
		}
		for _, n := range order {
			out = append(out, *rows[n])
		}
	}
	return out
}
