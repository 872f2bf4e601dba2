package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/distribution/reference"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// PullTo pulls ref and shows the progress on out, or nothing if quiet.
func PullTo(ctx context.Context, sh *shell.Shell, ref string, p *ocispec.Platform, quiet bool, out *shell.Out) error {
	o := client.ImagePullOptions{}
	if p != nil {
		o.Platforms = []ocispec.Platform{*p}
	}
	if quiet {
		out = shell.NewOut(io.Discard)
	}
	return pull(ctx, sh, ref, o, out)
}

func pull(ctx context.Context, sh *shell.Shell, ref string, o client.ImagePullOptions, out *shell.Out) error {
	auth, err := sh.RegistryAuth(ctx, ref)
	if err != nil {
		return err
	}
	o.RegistryAuth = auth
	api, err := sh.API()
	if err != nil {
		return err
	}
	r, err := api.ImagePull(ctx, ref, o)
	if err != nil {
		return err
	}
	defer r.Close()
	return display(ctx, r, out)
}

// repository is the reference that pull and push are called with: whole, and
// with the tag that is meant if none is named and not all are.
func repository(sh *shell.Shell, name string, allTags, quiet, untrusted bool) (reference.Named, error) {
	if !untrusted {
		return nil, errors.New("content trust is not supported by this client")
	}
	ref, err := reference.ParseNormalizedNamed(name)
	switch {
	case err != nil:
		return nil, err
	case allTags && !reference.IsNameOnly(ref):
		return nil, errors.New("tag can't be used with --all-tags/-a")
	case !allTags && reference.IsNameOnly(ref):
		ref = reference.TagNameOnly(ref)
		if t, ok := ref.(reference.Tagged); ok && !quiet {
			fmt.Fprintln(sh.Out, "Using default tag:", t.Tag())
		}
	}
	return ref, nil
}

// NewPull is `pull`.
func NewPull(sh *shell.Shell) *cobra.Command {
	var allTags, quiet, untrusted bool
	var platform string
	cmd := &cobra.Command{
		Use:         "pull [OPTIONS] NAME[:TAG|@DIGEST]",
		Short:       "Download an image from a registry",
		Args:        shell.ExactArgs(1),
		Annotations: shell.Aliases("image pull", "pull"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := repository(sh, args[0], allTags, quiet, untrusted)
			if err != nil {
				return err
			}
			o := client.ImagePullOptions{All: allTags}
			if platform != "" {
				if o.Platforms, err = parsePlatforms(platform); err != nil {
					return err
				}
			}
			out := sh.Out
			if quiet {
				out = shell.NewOut(io.Discard)
			}
			if err := pull(cmd.Context(), sh, reference.FamiliarString(ref), o, out); err != nil {
				return err
			}
			sh.Println(ref.String())
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.BoolVarP(&allTags, "all-tags", "a", false, "Download every tag of the repository")
	f.BoolVarP(&quiet, "quiet", "q", false, "Suppress verbose output")
	f.StringVar(&platform, "platform", os.Getenv("DOCKER_DEFAULT_PLATFORM"), "Platform, if the engine can hold several")
	f.BoolVar(&untrusted, "disable-content-trust", true, "Skip image verification")
	return cmd
}
