package image

import (
	"errors"
	"io"
	"os"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewLoad is `load`.
func NewLoad(sh *shell.Shell) *cobra.Command {
	var input string
	var quiet bool
	var platform string
	cmd := &cobra.Command{
		Use:         "load [OPTIONS]",
		Short:       "Load an image from a tar archive or STDIN",
		Args:        shell.NoArgs,
		Annotations: shell.Aliases("image load", "load"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			src := io.Reader(sh.In)
			if input != "" {
				f, err := os.Open(input)
				if err != nil {
					return err
				}
				defer f.Close()
				src = f
			} else if sh.In.IsTerminal() {
				return errors.New("requested load from stdin, but stdin is empty")
			}
			o := []client.ImageLoadOption{client.ImageLoadWithQuiet(quiet || !sh.Out.IsTerminal())}
			p, err := parsePlatforms(platform)
			if err != nil {
				return err
			}
			if len(p) > 0 {
				o = append(o, client.ImageLoadWithPlatforms(p...))
			}
			if err := sh.Negotiate(ctx); err != nil {
				return err
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			r, err := api.ImageLoad(ctx, src, o...)
			if err != nil {
				return err
			}
			defer r.Close()
			return display(ctx, r, sh.Out)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringVarP(&input, "input", "i", "", "Archive file to read in place of STDIN")
	f.BoolVarP(&quiet, "quiet", "q", false, "Suppress the load output")
	f.StringVar(&platform, "platform", "", `Only load this platform, as "os[/arch[/variant]]" (e.g., "linux/amd64")`)
	return cmd
}
