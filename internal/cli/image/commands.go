// Package image owns the verbs about images, one file per verb.
package image

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/jsonmessage"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// Commands returns the verbs for the `image` group.
func Commands(sh *shell.Shell) []*cobra.Command {
	rm := NewRmi(sh)
	rm.Use, rm.Aliases = "rm [OPTIONS] IMAGE [IMAGE...]", []string{"rmi", "remove"}
	ls := NewImages(sh)
	ls.Use, ls.Aliases = "ls [OPTIONS] [REPOSITORY[:TAG]]", []string{"list"}
	return []*cobra.Command{
		NewBootstrap(sh), NewHistory(sh), NewImport(sh), NewInspect(sh), NewLoad(sh), ls, NewPrune(sh), NewPull(sh), NewPush(sh),
		rm, NewSave(sh), NewTag(sh),
	}
}

// Names lists images for completion, as name:tag.
func Names(ctx context.Context, api client.APIClient) ([]string, error) {
	res, err := api.ImageList(ctx, client.ImageListOptions{})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, i := range res.Items {
		for _, t := range i.RepoTags {
			if !strings.HasPrefix(t, "<none>") {
				out = append(out, t)
			}
		}
	}
	return out, nil
}

// display shows the engine's progress stream: bars on a terminal, plain lines
// elsewhere. It returns the error that the stream reports.
func display(ctx context.Context, r io.Reader, out *shell.Out) error {
	err := jsonmessage.DisplayStream(r, out.Raw())
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// parsePlatforms parses each value; empty ones are not given.
func parsePlatforms(in ...string) ([]ocispec.Platform, error) {
	var out []ocispec.Platform
	for _, s := range in {
		if s == "" {
			continue
		}
		p, err := platforms.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("invalid platform: %w", err)
		}
		out = append(out, p)
	}
	return out, nil
}
