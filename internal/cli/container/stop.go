package container

import (
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewStop is `stop`.
func NewStop(sh *shell.Shell) *cobra.Command {
	var signal string
	var timeout int
	cmd := &cobra.Command{
		Use:         "stop [OPTIONS] CONTAINER [CONTAINER...]",
		Short:       "Stop one or more running containers",
		Args:        shell.MinArgs(1),
		Annotations: shell.Aliases("container stop", "stop"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := client.ContainerStopOptions{Signal: signal}
			if stopTimeout(cmd) {
				o.Timeout = &timeout
			}
			return each(sh, args, func(api client.APIClient, name string) error {
				_, err := api.ContainerStop(cmd.Context(), name, o)
				return err
			})
		},
		ValidArgsFunction: shell.Complete(sh, 0, running),
	}
	addStopFlags(cmd, &signal, &timeout)
	return cmd
}

func addStopFlags(cmd *cobra.Command, signal *string, timeout *int) {
	f := cmd.Flags()
	f.StringVarP(signal, "signal", "s", "", "Signal for the container")
	completeSignal(cmd, "signal")
	f.IntVarP(timeout, "timeout", "t", 0, "Seconds until the container is killed")
	// The name of docker 27 and before.
	f.IntVar(timeout, "time", 0, "Seconds until the container is killed")
	_ = f.MarkDeprecated("time", "use --timeout instead")
}

func stopTimeout(cmd *cobra.Command) bool {
	return cmd.Flags().Changed("timeout") || cmd.Flags().Changed("time")
}
