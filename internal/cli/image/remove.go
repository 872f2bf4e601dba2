package image

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewRmi is `rmi`.
func NewRmi(sh *shell.Shell) *cobra.Command {
	var force, noPrune bool
	var platform []string
	cmd := &cobra.Command{
		Use:         "rmi [OPTIONS] IMAGE [IMAGE...]",
		Short:       "Remove one or more images",
		Args:        shell.MinArgs(1),
		Annotations: shell.Aliases("image rm", "image remove", "rmi"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := parsePlatforms(platform...)
			if err != nil {
				return err
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			fatal := false
			err = shell.Each(args, func(name string) error {
				r, err := api.ImageRemove(cmd.Context(), name, client.ImageRemoveOptions{Force: force, PruneChildren: !noPrune, Platforms: p})
				if err != nil {
					fatal = fatal || !errdefs.IsNotFound(err)
					return err
				}
				for _, i := range r.Items {
					if i.Deleted != "" {
						sh.Println("Deleted:", i.Deleted)
					} else {
						sh.Println("Untagged:", i.Untagged)
					}
				}
				return nil
			})
			if err != nil && force && !fatal {
				fmt.Fprintln(sh.Err, err) // being gone already is what -f wants
				return nil
			}
			return err
		},
		ValidArgsFunction: shell.Complete(sh, 0, Names),
	}
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "Force removal of the image")
	f.BoolVar(&noPrune, "no-prune", false, "Keep untagged parents")
	f.StringSliceVar(&platform, "platform", nil, `Only remove these platforms, as "os[/arch[/variant]]" (e.g., "linux/amd64")`)
	return cmd
}
