package image

import (
	"os"
	"strings"

	"github.com/containerd/platforms"
	"github.com/docker/cli/opts"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewImport is `import`.
func NewImport(sh *shell.Shell) *cobra.Command {
	var message, platform string
	changes := opts.NewListOpts(nil)
	cmd := &cobra.Command{
		Use:         "import [OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
		Short:       "Make an image from the contents of a tarball",
		Args:        shell.MinArgs(1),
		Annotations: shell.Aliases("image import", "import"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			src := client.ImageImportSource{SourceName: "-"}
			switch name := args[0]; {
			case name == "-":
				src.Source = sh.In
			case strings.HasPrefix(name, "http://"), strings.HasPrefix(name, "https://"):
				src.SourceName = name // the engine fetches it
			default:
				f, err := os.Open(name)
				if err != nil {
					return err
				}
				defer f.Close()
				src.Source = f
			}
			o := client.ImageImportOptions{Message: message, Changes: changes.GetSlice()}
			if platform != "" {
				p, err := platforms.Parse(platform)
				if err != nil {
					return err
				}
				o.Platform = p
			}
			ref := ""
			if len(args) > 1 {
				ref = args[1]
			}
			if err := sh.Negotiate(ctx); err != nil {
				return err
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			r, err := api.ImageImport(ctx, src, ref, o)
			if err != nil {
				return err
			}
			defer r.Close()
			return display(ctx, r, sh.Out)
		},
	}
	f := cmd.Flags()
	f.VarP(&changes, "change", "c", "Dockerfile instruction to apply to the image")
	f.StringVarP(&message, "message", "m", "", "Commit message of the image")
	f.StringVar(&platform, "platform", os.Getenv("DOCKER_DEFAULT_PLATFORM"), "Platform, if the engine can hold several")
	return cmd
}
