package container

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewPrune is `container prune`.
func NewPrune(sh *shell.Shell) *cobra.Command {
	return shell.Prune{
		Short: "Remove all stopped containers", Filter: `Filter values (e.g. "until=<timestamp>")`, Gone: "Deleted Containers:",
		Lost: func(client.Filters) (string, error) { return "all stopped containers", nil },
		Run: func(ctx context.Context, api client.APIClient, f client.Filters) ([]string, *uint64, error) {
			r, err := api.ContainerPrune(ctx, client.ContainerPruneOptions{Filters: f})
			return r.Report.ContainersDeleted, &r.Report.SpaceReclaimed, err
		},
	}.Command(sh)
}
