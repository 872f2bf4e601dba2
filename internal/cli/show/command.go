package show

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// Fetch gets one object; see Get.
type Fetch func(ctx context.Context, api client.APIClient, ref string) (typed any, raw []byte, err error)

// Command is the inspect verb of one kind of object; more flags can be added.
func Command(sh *shell.Shell, arg, kind string, names shell.Names, fetch Fetch) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] " + arg + " [" + arg + "...]",
		Short: "Display detailed information on one or more " + kind,
		Args:  shell.MinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := sh.API()
			if err != nil {
				return err
			}
			return Inspect(sh.Out, args, format, func(ref string) (any, []byte, error) { return fetch(cmd.Context(), api, ref) })
		},
		ValidArgsFunction: shell.Complete(sh, 0, names),
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", InspectHelp)
	return cmd
}
