package container

import (
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewPause is `pause`.
func NewPause(sh *shell.Shell) *cobra.Command {
	return &cobra.Command{
		Use:         "pause CONTAINER [CONTAINER...]",
		Short:       "Pause all processes within one or more containers",
		Args:        shell.MinArgs(1),
		Annotations: shell.Aliases("container pause", "pause"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return each(sh, args, func(api client.APIClient, name string) error {
				_, err := api.ContainerPause(cmd.Context(), name, client.ContainerPauseOptions{})
				return err
			})
		},
		ValidArgsFunction: shell.Complete(sh, 0, running),
	}
}
