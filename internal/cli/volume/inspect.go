package volume

import (
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

// NewInspect is `volume inspect`.
func NewInspect(sh *shell.Shell) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] VOLUME [VOLUME...]",
		Short: "Display detailed information on one or more volumes",
		Args:  shell.MinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := sh.API()
			if err != nil {
				return err
			}
			return show.Inspect(sh.Out, args, format, func(ref string) (any, []byte, error) {
				r, err := api.VolumeInspect(cmd.Context(), ref, client.VolumeInspectOptions{})
				return r.Volume, r.Raw, err
			})
		},
		ValidArgsFunction: shell.Complete(sh, 0, Names),
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", show.InspectHelp)
	return cmd
}
