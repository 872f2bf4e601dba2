package network

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewRm is `network rm`.
func NewRm(sh *shell.Shell) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:         "rm NETWORK [NETWORK...]",
		Aliases:     []string{"remove"},
		Short:       "Remove one or more networks",
		Args:        shell.MinArgs(1),
		Annotations: shell.Aliases("network rm", "network remove"),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := sh.API()
			if err != nil {
				return err
			}
			failed := false
			for _, name := range args {
				_, err := api.NetworkRemove(cmd.Context(), name, client.NetworkRemoveOptions{})
				switch {
				case shell.TooNew(err) != "":
					return err
				case force && errdefs.IsNotFound(err):
				case err != nil:
					fmt.Fprintln(sh.Err, err)
					failed = true
				default:
					sh.Println(name)
				}
			}
			if failed {
				return &shell.StatusError{Code: 1}
			}
			return nil
		},
		ValidArgsFunction: shell.Complete(sh, 0, Names),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "It is no error when a network does not exist")
	return cmd
}
