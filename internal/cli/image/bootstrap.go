package image

import (
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/client"
	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewBootstrap is `image bootstrap`, which docker does not have.
func NewBootstrap(sh *shell.Shell) *cobra.Command {
	var mirror string
	var include []string
	cmd := &cobra.Command{
		Use:   "bootstrap [OPTIONS] debian:SUITE|busybox",
		Short: "Make a base image from a Debian mirror",
		Args:  shell.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := sh.API()
			if err != nil {
				return err
			}
			r, err := client.Bootstrap(cmd.Context(), api, args[0], mirror, include)
			if err != nil {
				return err
			}
			defer r.Close()
			return display(cmd.Context(), r, sh.Out)
		},
		ValidArgs: []string{"debian:bookworm", "debian:trixie", "busybox"},
	}
	f := cmd.Flags()
	f.StringVar(&mirror, "mirror", "", "Address of the mirror (default: the one that apt uses on the engine's host)")
	f.StringSliceVar(&include, "include", nil, "More packages, with commas between them")
	return cmd
}
