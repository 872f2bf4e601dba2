package image

import (
	"bytes"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

// NewInspect is `image inspect`.
func NewInspect(sh *shell.Shell) *cobra.Command {
	var format, platform string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] IMAGE [IMAGE...]",
		Short: "Display detailed information on one or more images",
		Args:  shell.MinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var o []client.ImageInspectOption
			if platform != "" {
				p, err := parsePlatforms(platform)
				if err != nil {
					return err
				}
				o = append(o, client.ImageInspectWithPlatform(&p[0]))
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			return show.Inspect(sh.Out, args, format, func(ref string) (any, []byte, error) {
				var raw bytes.Buffer
				r, err := api.ImageInspect(cmd.Context(), ref, append(o, client.ImageInspectWithRawResponse(&raw))...)
				return r.InspectResponse, raw.Bytes(), err
			})
		},
		ValidArgsFunction: shell.Complete(sh, 0, Names),
	}
	f := cmd.Flags()
	f.StringVarP(&format, "format", "f", "", show.InspectHelp)
	f.StringVar(&platform, "platform", "", "Platform of a multi-platform image, as 'os[/arch[/variant]]'\n"+
		"(e.g., linux/amd64); an error if the image is not for it")
	return cmd
}
