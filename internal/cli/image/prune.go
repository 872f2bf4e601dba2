package image

import (
	"strconv"

	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewPrune is `image prune`.
func NewPrune(sh *shell.Shell) *cobra.Command {
	var force, all bool
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove unused images",
		Args:  shell.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !force {
				what := "all dangling images"
				if all {
					what = "all images without at least one container associated to them"
				}
				ok, err := sh.Confirm(cmd.Context(), "WARNING! This will remove "+what+".\nAre you sure you want to continue?")
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
			filters := filter.Value().Clone().Add("dangling", strconv.FormatBool(!all))
			r, err := api.ImagePrune(cmd.Context(), client.ImagePruneOptions{Filters: filters})
			if err != nil {
				return err
			}
			if items := r.Report.ImagesDeleted; len(items) > 0 {
				sh.Println("Deleted Images:")
				for _, i := range items {
					if i.Untagged != "" {
						sh.Println("untagged:", i.Untagged)
					} else {
						sh.Println("deleted:", i.Deleted)
					}
				}
				sh.Println()
			}
			sh.Println("Total reclaimed space:", units.HumanSize(float64(r.Report.SpaceReclaimed)))
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Remove every unused image, not only dangling ones")
	f.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	f.Var(&filter, "filter", `Filter values (e.g. "until=<timestamp>")`)
	return cmd
}
