package network

import (
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

// NewInspect is `network inspect`.
func NewInspect(sh *shell.Shell) *cobra.Command {
	var format string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] NETWORK [NETWORK...]",
		Short: "Display detailed information on one or more networks",
		Args:  shell.MinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := sh.API()
			if err != nil {
				return err
			}
			return show.Inspect(sh.Out, args, format, func(ref string) (any, []byte, error) {
				r, err := api.NetworkInspect(cmd.Context(), ref, client.NetworkInspectOptions{Verbose: verbose})
				return r.Network, r.Raw, err
			})
		},
		ValidArgsFunction: shell.Complete(sh, 0, Names),
	}
	f := cmd.Flags()
	f.StringVarP(&format, "format", "f", "", show.InspectHelp)
	f.BoolVarP(&verbose, "verbose", "v", false, "More output, for diagnosis")
	return cmd
}
