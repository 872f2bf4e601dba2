package network

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

// NewInspect is `network inspect`.
func NewInspect(sh *shell.Shell) *cobra.Command {
	var verbose bool
	cmd := show.Command(sh, "NETWORK", "networks", Names, func(ctx context.Context, api client.APIClient, ref string) (any, []byte, error) {
		r, err := api.NetworkInspect(ctx, ref, client.NetworkInspectOptions{Verbose: verbose})
		return r.Network, r.Raw, err
	})
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "More output, for diagnosis")
	return cmd
}
