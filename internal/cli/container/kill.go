package container

import (
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewKill is `kill`.
func NewKill(sh *shell.Shell) *cobra.Command {
	var signal string
	cmd := &cobra.Command{
		Use:         "kill [OPTIONS] CONTAINER [CONTAINER...]",
		Short:       "Kill one or more running containers",
		Args:        shell.MinArgs(1),
		Annotations: shell.Aliases("container kill", "kill"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return each(sh, args, func(api client.APIClient, name string) error {
				_, err := api.ContainerKill(cmd.Context(), name, client.ContainerKillOptions{Signal: signal})
				return err
			})
		},
		ValidArgsFunction: shell.Complete(sh, 0, running),
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "Signal for the container")
	completeSignal(cmd, "signal")
	return cmd
}
