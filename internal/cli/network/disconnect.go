package network

import (
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewDisconnect is `network disconnect`.
func NewDisconnect(sh *shell.Shell) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "disconnect [OPTIONS] NETWORK CONTAINER",
		Short: "Disconnect a container from a network",
		Args:  shell.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := sh.API()
			if err != nil {
				return err
			}
			_, err = api.NetworkDisconnect(cmd.Context(), args[0], client.NetworkDisconnectOptions{Container: args[1], Force: force})
			return err
		},
		ValidArgsFunction: both(sh, true),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Disconnect also what is not known to be connected")
	return cmd
}
