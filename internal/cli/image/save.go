package image

import (
	"errors"
	"fmt"
	"io"

	"github.com/moby/moby/client"
	"github.com/moby/sys/atomicwriter"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewSave is `save`.
func NewSave(sh *shell.Shell) *cobra.Command {
	var output string
	var platform string
	cmd := &cobra.Command{
		Use:         "save [OPTIONS] IMAGE [IMAGE...]",
		Short:       "Save one or more images to a tar archive (STDOUT by default)",
		Args:        shell.MinArgs(1),
		Annotations: shell.Aliases("image save", "save"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if output == "" && sh.Out.IsTerminal() {
				return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
			}
			var o []client.ImageSaveOption
			p, err := parsePlatforms(platform)
			if err != nil {
				return err
			}
			if len(p) > 0 {
				o = append(o, client.ImageSaveWithPlatforms(p...))
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			dst := io.Writer(sh.Out)
			if output != "" {
				// The file appears only when it is complete.
				w, err := atomicwriter.New(output, 0o600)
				if err != nil {
					return fmt.Errorf("failed to save image: %w", err)
				}
				defer func() { err = errors.Join(err, w.Close()) }()
				dst = w
			}
			r, err := api.ImageSave(cmd.Context(), args, o...)
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.Copy(dst, r)
			return err
		},
		ValidArgsFunction: shell.Complete(sh, 0, Names),
	}
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", "", "File to write in place of STDOUT")
	f.StringVar(&platform, "platform", "", `Only save this platform, as "os[/arch[/variant]]" (e.g., "linux/amd64")`)
	return cmd
}
