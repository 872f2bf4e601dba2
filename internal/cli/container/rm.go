package container

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewRm is `rm`.
func NewRm(sh *shell.Shell) *cobra.Command {
	var o client.ContainerRemoveOptions
	cmd := &cobra.Command{
		Use:         "rm [OPTIONS] CONTAINER [CONTAINER...]",
		Aliases:     []string{"remove"},
		Short:       "Remove one or more containers",
		Args:        shell.MinArgs(1),
		Annotations: shell.Aliases("container rm", "container remove", "rm"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return each(sh, args, func(api client.APIClient, name string) error {
				name = strings.Trim(name, "/")
				if name == "" {
					return errors.New("container name cannot be empty")
				}
				_, err := api.ContainerRemove(cmd.Context(), name, o)
				if o.Force && errdefs.IsNotFound(err) {
					fmt.Fprintln(sh.Err, err)
					return errShown
				}
				return err
			})
		},
		ValidArgsFunction: shell.Complete(sh, 0, removable(&o)),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.RemoveVolumes, "volumes", "v", false, "Remove the container's anonymous volumes too")
	f.BoolVarP(&o.RemoveLinks, "link", "l", false, "Remove the specified link")
	f.BoolVarP(&o.Force, "force", "f", false, "Remove the container even if it runs (by SIGKILL)")
	return cmd
}
