package container

import (
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

// NewInspect is `container inspect`.
func NewInspect(sh *shell.Shell) *cobra.Command {
	var format string
	var size bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Display detailed information on one or more containers",
		Args:  shell.MinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := sh.API()
			if err != nil {
				return err
			}
			return show.Inspect(sh.Out, args, format, func(ref string) (any, []byte, error) {
				r, err := api.ContainerInspect(cmd.Context(), ref, client.ContainerInspectOptions{Size: size})
				return r.Container, r.Raw, err
			})
		},
		ValidArgsFunction: shell.Complete(sh, 0, all),
	}
	f := cmd.Flags()
	f.StringVarP(&format, "format", "f", "", show.InspectHelp)
	f.BoolVarP(&size, "size", "s", false, "Display total file sizes")
	return cmd
}
