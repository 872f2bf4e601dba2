package shell

import (
	"context"

	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// Prune is what the prune verbs differ in.
type Prune struct {
	Short, Filter string
	// Lost says what would go; an error refuses the flags.
	Lost func(client.Filters) (string, error)
	// Run removes and tells the names of what went and, where that is known,
	// the bytes.
	Run func(context.Context, client.APIClient, client.Filters) (names []string, bytes *uint64, err error)
	// Gone is the heading over the names.
	Gone string
}

// Command is the verb; it asks before it does anything.
func (p Prune) Command(sh *Shell) *cobra.Command {
	var force bool
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: p.Short,
		Args:  NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			lost, err := p.Lost(filter.Value())
			if err != nil {
				return err
			}
			if !force {
				ok, err := sh.Confirm(cmd.Context(), "WARNING! This will remove "+lost+".\nAre you sure you want to continue?")
				if err != nil || !ok {
					return err // nil when the user said no
				}
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			names, bytes, err := p.Run(cmd.Context(), api, filter.Value())
			if err != nil {
				return err
			}
			if len(names) > 0 {
				sh.Println(p.Gone)
				for _, n := range names {
					sh.Println(n)
				}
				sh.Println()
			}
			if bytes != nil {
				sh.Println("Total reclaimed space:", units.HumanSize(float64(*bytes)))
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	f.Var(&filter, "filter", p.Filter)
	return cmd
}
