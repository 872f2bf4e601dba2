package volume

import (
	"cmp"
	"slices"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/opts"
	"github.com/fvbommel/sortorder"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

// NewLs is `volume ls`.
func NewLs(sh *shell.Shell) *cobra.Command {
	var quiet bool
	var format string
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{
		Use:         "ls [OPTIONS]",
		Aliases:     []string{"list"},
		Short:       "List volumes",
		Args:        shell.NoArgs,
		Annotations: shell.Aliases("volume ls", "volume list"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := sh.API()
			if err != nil {
				return err
			}
			r, err := api.VolumeList(cmd.Context(), client.VolumeListOptions{Filters: filter.Value()})
			if err != nil {
				return err
			}
			slices.SortFunc(r.Items, func(a, b volume.Volume) int {
				if sortorder.NaturalLess(a.Name, b.Name) {
					return -1
				}
				return cmp.Compare(a.Name, b.Name)
			})
			if format == "" {
				format = formatter.TableFormatKey
			}
			return formatter.VolumeWrite(formatter.Context{Output: sh.Out, Format: formatter.NewVolumeFormat(format, quiet)}, r.Items)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "Only display volume names")
	f.StringVar(&format, "format", "", show.FormatHelp)
	f.VarP(&filter, "filter", "f", `Filter values (e.g. "dangling=true")`)
	shell.CompleteFilter(sh, cmd, "filter", map[string]shell.Names{"dangling": shell.Bools, "driver": Drivers, "label": nil, "name": Names})
	return cmd
}
