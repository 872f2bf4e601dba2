package container

import (
	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewPrune is `container prune`.
func NewPrune(sh *shell.Shell) *cobra.Command {
	var force bool
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove all stopped containers",
		Args:  shell.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !force {
				ok, err := sh.Confirm(cmd.Context(), "WARNING! This will remove all stopped containers.\nAre you sure you want to continue?")
				if err != nil {
					return err
				}
				if !ok {
					return nil // the user said no
				}
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			r, err := api.ContainerPrune(cmd.Context(), client.ContainerPruneOptions{Filters: filter.Value()})
			if err != nil {
				return err
			}
			if ids := r.Report.ContainersDeleted; len(ids) > 0 {
				sh.Println("Deleted Containers:")
				for _, id := range ids {
					sh.Println(id)
				}
				sh.Println()
			}
			sh.Println("Total reclaimed space:", units.HumanSize(float64(r.Report.SpaceReclaimed)))
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	f.Var(&filter, "filter", `Filter values (e.g. "until=<timestamp>")`)
	return cmd
}
