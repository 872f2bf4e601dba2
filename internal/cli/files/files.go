// Package files owns the verbs about the files of containers: cp, diff, export
// and commit, and the packing and unpacking of local files for cp.
package files

import (
	"github.com/docker/cli/opts"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/container"
	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// Commands returns the verbs for the `container` group.
func Commands(sh *shell.Shell) []*cobra.Command {
	return []*cobra.Command{NewCommit(sh), NewCp(sh), NewDiff(sh), NewExport(sh)}
}

// NewDiff is `diff`.
func NewDiff(sh *shell.Shell) *cobra.Command {
	return &cobra.Command{
		Use:         "diff CONTAINER",
		Short:       "Inspect changes to files or directories on a container's filesystem",
		Args:        shell.ExactArgs(1),
		Annotations: shell.Aliases("container diff", "diff"),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := sh.API()
			if err != nil {
				return err
			}
			r, err := api.ContainerDiff(cmd.Context(), args[0], client.ContainerDiffOptions{})
			if err != nil {
				return err
			}
			for _, c := range r.Changes {
				sh.Println(c.Kind.String(), c.Path)
			}
			return nil
		},
		ValidArgsFunction: shell.Complete(sh, 1, container.Names),
	}
}

// NewCommit is `commit`.
func NewCommit(sh *shell.Shell) *cobra.Command {
	var author, message string
	var pause bool
	changes := opts.NewListOpts(nil)
	cmd := &cobra.Command{
		Use:         "commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
		Short:       "Create a new image from a container's changes",
		Args:        shell.RangeArgs(1, 2),
		Annotations: shell.Aliases("container commit", "commit"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := client.ContainerCommitOptions{Comment: message, Author: author, Changes: changes.GetSlice(), NoPause: !pause}
			if len(args) > 1 {
				o.Reference = args[1]
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			r, err := api.ContainerCommit(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			sh.Println(r.ID)
			return nil
		},
		ValidArgsFunction: shell.Complete(sh, 1, container.Names),
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVarP(&author, "author", "a", "", `Author of the image (e.g., "John Hannibal Smith <hannibal@a-team.com>")`)
	f.VarP(&changes, "change", "c", "Dockerfile instruction to apply to the image")
	f.StringVarP(&message, "message", "m", "", "Commit message of the image")
	f.BoolVarP(&pause, "pause", "p", true, "Pause container during commit")
	return cmd
}
