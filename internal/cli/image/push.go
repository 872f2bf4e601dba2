package image

import (
	"context"
	"encoding/json"
	"io"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/jsonmessage"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewPush is `push`.
func NewPush(sh *shell.Shell) *cobra.Command {
	var allTags, quiet, untrusted bool
	var platform string
	cmd := &cobra.Command{
		Use:         "push [OPTIONS] NAME[:TAG]",
		Short:       "Upload an image to a registry",
		Args:        shell.ExactArgs(1),
		Annotations: shell.Aliases("image push", "push"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := client.ImagePushOptions{All: allTags}
			p, err := parsePlatforms(platform)
			if err != nil {
				return err
			}
			if len(p) > 0 {
				o.Platform = &p[0]
				flag := bold.in(sh.Out, "--platform")
				printNote(sh.Out, "Using "+flag+" pushes only the specified platform manifest of a multi-platform image index.",
					"Other components, like attestations, will not be included.", "To push the complete multi-platform image, remove the "+flag+" flag.", "")
			}
			ref, err := repository(sh, args[0], allTags, quiet, untrusted)
			if err != nil {
				return err
			}
			return push(cmd.Context(), sh, ref, o, quiet)
		},
		ValidArgsFunction: shell.Complete(sh, 1, Names),
	}
	f := cmd.Flags()
	f.BoolVarP(&allTags, "all-tags", "a", false, "Push all tags of an image to the repository")
	f.BoolVarP(&quiet, "quiet", "q", false, "Suppress verbose output")
	f.BoolVar(&untrusted, "disable-content-trust", true, "Skip image signing")
	f.StringVar(&platform, "platform", "", "Push a platform-specific manifest as a single-platform image to the registry.\nImage index won't be pushed, meaning that other manifests, including attestations won't be preserved.\n'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)")
	return cmd
}

func push(ctx context.Context, sh *shell.Shell, ref reference.Named, o client.ImagePushOptions, quiet bool) error {
	auth, err := sh.RegistryAuth(ctx, ref.String())
	if err != nil {
		return err
	}
	o.RegistryAuth = auth
	api, err := sh.API()
	if err != nil {
		return err
	}
	r, err := api.ImagePush(ctx, reference.FamiliarString(ref), o)
	if err != nil {
		return err
	}
	defer r.Close()
	out := sh.Out
	if quiet {
		out = shell.NewOut(io.Discard)
	}
	var notes [][]string
	defer func() {
		for _, n := range notes {
			printNote(sh.Out, n...)
		}
	}()
	err = jsonmessage.DisplayStream(r, out.Raw(), jsonmessage.WithAuxCallback(func(m jsonstream.Message) {
		if n := note(sh.Out, m.Aux); n != nil {
			notes = append(notes, n)
		}
	}))
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil {
		return err
	}
	if quiet {
		sh.Println(ref.String())
	}
	return nil
}

// note words what the engine says beside the progress, if a person should know it.
func note(out *shell.Out, aux *json.RawMessage) []string {
	var v struct {
		Instead  bool               `json:"manifestPushedInsteadOfIndex"`
		Original ocispec.Descriptor `json:"originalIndex"`
		Selected ocispec.Descriptor `json:"selectedManifest"`
	}
	if aux == nil || json.Unmarshal(*aux, &v) != nil || !v.Instead {
		return nil
	}
	return []string{"Not all multiplatform-content is present and only the available single-platform image was pushed",
		red.in(out, v.Original.Digest.String()) + " -> " + green.in(out, v.Selected.Digest.String())}
}
