package volume

import (
	"errors"

	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewPrune is `volume prune`.
func NewPrune(sh *shell.Shell) *cobra.Command {
	var all, force bool
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove unused local volumes",
		Args:  shell.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, given := filter.Value()["all"]; given && all {
				return errors.New("conflicting options: cannot specify both --all and --filter all=1")
			}
			if !force {
				what := "anonymous local volumes not used by at least one container"
				if all {
					what = "all local volumes not used by at least one container"
				}
				ok, err := sh.Confirm(cmd.Context(), "WARNING! This will remove "+what+".\nAre you sure you want to continue?")
				if err != nil || !ok {
					return err
				}
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			r, err := api.VolumePrune(cmd.Context(), client.VolumePruneOptions{All: all, Filters: filter.Value()})
			if err != nil {
				return err
			}
			if names := r.Report.VolumesDeleted; len(names) > 0 {
				sh.Println("Deleted Volumes:")
				for _, n := range names {
					sh.Println(n)
				}
				sh.Println()
			}
			sh.Println("Total reclaimed space:", units.HumanSize(float64(r.Report.SpaceReclaimed)))
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Remove every unused volume, not only anonymous ones")
	f.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	f.Var(&filter, "filter", `Filter values (e.g. "label=<label>")`)
	return cmd
}
