package system

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

type pruneFlags struct {
	all, volumes, force bool
	filter              opts.FilterOpt
}

// NewPrune is `system prune`.
func NewPrune(sh *shell.Shell) *cobra.Command {
	p := pruneFlags{filter: opts.NewFilterOpt()}
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove unused data",
		Args:  shell.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, until := p.filter.Value()["until"]; until && p.volumes {
				return errors.New(`ERROR: The "until" filter is not supported with "--volumes"`)
			}
			if !p.force {
				ok, err := sh.Confirm(cmd.Context(), p.question())
				if err != nil || !ok {
					return err
				}
			}
			return p.run(cmd.Context(), sh)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.BoolVarP(&p.force, "force", "f", false, "Do not prompt for confirmation")
	f.BoolVarP(&p.all, "all", "a", false, "Remove every unused image, not only dangling ones")
	f.BoolVar(&p.volumes, "volumes", false, "Remove unused anonymous volumes too")
	f.Var(&p.filter, "filter", `Filter values (e.g. "label=<key>=<value>")`)
	return cmd
}

func (p *pruneFlags) question() string {
	lines := []string{"all stopped containers", "all networks not used by at least one container"}
	if p.volumes {
		lines = append(lines, "all anonymous volumes not used by at least one container")
	}
	if p.all {
		lines = append(lines, "all images without at least one container associated to them", "all build cache")
	} else {
		lines = append(lines, "all dangling images", "unused build cache")
	}
	text := "WARNING! This will remove:\n  - " + strings.Join(lines, "\n  - ") + "\n"
	var list []string
	for key, values := range p.filter.Value() {
		for v := range values {
			list = append(list, key+"="+v)
		}
	}
	slices.Sort(list)
	if len(list) > 0 {
		text += "\n  Items to be pruned will be filtered with:\n  - " + strings.Join(list, "\n  - ") + "\n"
	}
	return text + "\nAre you sure you want to continue?"
}

// run removes containers first, for they hold what comes after them.
func (p *pruneFlags) run(ctx context.Context, sh *shell.Shell) error {
	api, err := sh.API()
	if err != nil {
		return err
	}
	var total uint64
	say := func(title string, lines []string) {
		if len(lines) > 0 {
			sh.Println(title + "\n" + strings.Join(lines, "\n") + "\n")
		}
	}
	c, err := api.ContainerPrune(ctx, client.ContainerPruneOptions{Filters: p.filter.Value()})
	if err != nil {
		return err
	}
	say("Deleted Containers:", c.Report.ContainersDeleted)
	total += c.Report.SpaceReclaimed
	n, err := api.NetworkPrune(ctx, client.NetworkPruneOptions{Filters: p.filter.Value()})
	if err != nil {
		return err
	}
	say("Deleted Networks:", n.Report.NetworksDeleted)
	if p.volumes {
		v, err := api.VolumePrune(ctx, client.VolumePruneOptions{Filters: p.filter.Value()})
		if err != nil {
			return err
		}
		say("Deleted Volumes:", v.Report.VolumesDeleted)
		total += v.Report.SpaceReclaimed
	}
	i, err := api.ImagePrune(ctx, client.ImagePruneOptions{Filters: p.filter.Value().Clone().Add("dangling", strconv.FormatBool(!p.all))})
	if err != nil {
		return err
	}
	var lines []string
	for _, one := range i.Report.ImagesDeleted {
		if one.Untagged != "" {
			lines = append(lines, "untagged: "+one.Untagged)
		} else {
			lines = append(lines, "deleted: "+one.Deleted)
		}
	}
	say("Deleted Images:", lines)
	total += i.Report.SpaceReclaimed
	b, err := api.BuildCachePrune(ctx, client.BuildCachePruneOptions{All: p.all, Filters: p.filter.Value()})
	if err != nil {
		return err
	}
	say("Deleted build cache objects:", b.Report.CachesDeleted)
	total += b.Report.SpaceReclaimed
	sh.Println("Total reclaimed space:", units.HumanSize(float64(total)))
	return nil
}
