package files

import (
	"errors"
	"fmt"
	"io"

	"github.com/moby/moby/client"
	"github.com/moby/sys/atomicwriter"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/container"
	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewExport is `export`.
func NewExport(sh *shell.Shell) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:         "export [OPTIONS] CONTAINER",
		Short:       "Export a container's filesystem as a tar archive",
		Args:        shell.ExactArgs(1),
		Annotations: shell.Aliases("container export", "export"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" && sh.Out.IsTerminal() {
				return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if output == "" {
				return export(sh.Out, func() (io.ReadCloser, error) {
					return api.ContainerExport(ctx, args[0], client.ContainerExportOptions{})
				})
			}
			// The file appears only when it is complete.
			w, err := atomicwriter.New(output, 0o600)
			if err != nil {
				return fmt.Errorf("failed to export container: %w", err)
			}
			err = export(w, func() (io.ReadCloser, error) {
				return api.ContainerExport(ctx, args[0], client.ContainerExportOptions{})
			})
			return errors.Join(err, w.Close())
		},
		ValidArgsFunction: shell.Complete(sh, 1, container.Names),
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "File to write in place of STDOUT")
	return cmd
}

func export(w io.Writer, open func() (io.ReadCloser, error)) error {
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(w, r)
	return err
}
