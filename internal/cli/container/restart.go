package container

import (
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewRestart is `restart`.
func NewRestart(sh *shell.Shell) *cobra.Command {
	var signal string
	var timeout int
	cmd := &cobra.Command{
		Use:         "restart [OPTIONS] CONTAINER [CONTAINER...]",
		Short:       "Restart one or more containers",
		Args:        shell.MinArgs(1),
		Annotations: shell.Aliases("container restart", "restart"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := client.ContainerRestartOptions{Signal: signal}
			if stopTimeout(cmd) {
				o.Timeout = &timeout
			}
			return each(sh, args, func(api client.APIClient, name string) error {
				_, err := api.ContainerRestart(cmd.Context(), name, o)
				return err
			})
		},
		ValidArgsFunction: shell.Complete(sh, 0, all),
	}
	addStopFlags(cmd, &signal, &timeout)
	return cmd
}
