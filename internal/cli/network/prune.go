package network

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewPrune is `network prune`.
func NewPrune(sh *shell.Shell) *cobra.Command {
	return shell.Prune{
		Short: "Remove all unused networks", Filter: `Filter values (e.g. "until=<timestamp>")`, Gone: "Deleted Networks:",
		Lost: func(client.Filters) (string, error) {
			return "all custom networks not used by at least one container", nil
		},
		Run: func(ctx context.Context, api client.APIClient, f client.Filters) ([]string, *uint64, error) {
			r, err := api.NetworkPrune(ctx, client.NetworkPruneOptions{Filters: f})
			return r.Report.NetworksDeleted, nil, err
		},
	}.Command(sh)
}
