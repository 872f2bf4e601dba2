package container

import (
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewUnpause is `unpause`.
func NewUnpause(sh *shell.Shell) *cobra.Command {
	return &cobra.Command{
		Use:         "unpause CONTAINER [CONTAINER...]",
		Short:       "Unpause all processes within one or more containers",
		Args:        shell.MinArgs(1),
		Annotations: shell.Aliases("container unpause", "unpause"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return each(sh, args, func(api client.APIClient, name string) error {
				_, err := api.ContainerUnpause(cmd.Context(), name, client.ContainerUnpauseOptions{})
				return err
			})
		},
		ValidArgsFunction: shell.Complete(sh, 0, paused),
	}
}
