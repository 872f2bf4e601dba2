package volume

import (
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewRm is `volume rm`.
func NewRm(sh *shell.Shell) *cobra.Command {
	var o client.VolumeRemoveOptions
	cmd := &cobra.Command{
		Use:         "rm [OPTIONS] VOLUME [VOLUME...]",
		Aliases:     []string{"remove"},
		Short:       "Remove one or more volumes",
		Long:        "Remove one or more volumes. A volume that a container has cannot be removed.",
		Args:        shell.MinArgs(1),
		Annotations: shell.Aliases("volume rm", "volume remove"),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := sh.API()
			if err != nil {
				return err
			}
			return shell.Each(args, func(name string) error {
				if _, err := api.VolumeRemove(cmd.Context(), name, o); err != nil {
					return err
				}
				sh.Println(name)
				return nil
			})
		},
		ValidArgsFunction: shell.Complete(sh, 0, Names),
	}
	cmd.Flags().BoolVarP(&o.Force, "force", "f", false, "It is no error when a volume does not exist")
	return cmd
}
