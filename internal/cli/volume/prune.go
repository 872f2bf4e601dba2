package volume

import (
	"context"
	"errors"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewPrune is `volume prune`.
func NewPrune(sh *shell.Shell) *cobra.Command {
	var all bool
	cmd := shell.Prune{
		Short: "Remove unused local volumes", Filter: `Filter values (e.g. "label=<label>")`, Gone: "Deleted Volumes:",
		Lost: func(f client.Filters) (string, error) {
			if _, given := f["all"]; given && all {
				return "", errors.New("conflicting options: cannot specify both --all and --filter all=1")
			}
			if all {
				return "all local volumes not used by at least one container", nil
			}
			return "anonymous local volumes not used by at least one container", nil
		},
		Run: func(ctx context.Context, api client.APIClient, f client.Filters) ([]string, *uint64, error) {
			r, err := api.VolumePrune(ctx, client.VolumePruneOptions{All: all, Filters: f})
			return r.Report.VolumesDeleted, &r.Report.SpaceReclaimed, err
		},
	}.Command(sh)
	cmd.Flags().BoolVarP(&all, "all", "a", false, "Remove every unused volume, not only anonymous ones")
	return cmd
}
