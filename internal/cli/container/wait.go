package container

import (
	"errors"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewWait is `wait`.
func NewWait(sh *shell.Shell) *cobra.Command {
	return &cobra.Command{
		Use:         "wait CONTAINER [CONTAINER...]",
		Short:       "Wait until one or more containers stop and print their exit codes",
		Args:        shell.MinArgs(1),
		Annotations: shell.Aliases("container wait", "wait"),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := sh.API()
			if err != nil {
				return err
			}
			return shell.Each(args, func(name string) error {
				w := api.ContainerWait(cmd.Context(), name, client.ContainerWaitOptions{})
				select {
				case r := <-w.Result:
					if r.Error != nil {
						return errors.New(r.Error.Message)
					}
					sh.Println(r.StatusCode)
					return nil
				case err := <-w.Error:
					return err
				}
			})
		},
		ValidArgsFunction: shell.Complete(sh, 0, running),
	}
}
