package build

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/images"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// attachment is a document that a build left: an index, a manifest, or what is
// attested of the image.
type attachment struct {
	Digest   string
	Platform string `json:",omitempty"`
	Type     string // media type, or the type of what is attested
}

// kinds are the short names of types.
var kinds = map[string][]string{
	"index":      {ocispec.MediaTypeImageIndex, images.MediaTypeDockerSchema2ManifestList},
	"manifest":   {ocispec.MediaTypeImageManifest, images.MediaTypeDockerSchema2Manifest},
	"image":      {ocispec.MediaTypeImageConfig, images.MediaTypeDockerSchema2Config},
	"provenance": {"https://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v0.2"},
	"sbom":       {"https://spdx.dev/Document"},
}

// Where a descriptor says what is attested, and that it is of an attestation.
const (
	annotationPredicate = "in-toto.io/predicate-type"
	annotationReference = "vnd.docker.reference.type"
)

func (e *engine) store() content.Store { return proxy.NewContentStore(e.kit.ContentClient()) }

// attachments lists what is still here of a build's documents.
func (e *engine) attachments(ctx context.Context, h *control.BuildHistoryRecord) (list []attachment) {
	store := e.store()
	add := func(info *control.BuildResultInfo, platform string) {
		for _, d := range info.GetAttestations() {
			list = append(list, attachment{d.Digest, platform, cmp.Or(d.Annotations[annotationPredicate], d.MediaType)})
		}
		results := info.GetResults()
		for _, n := range slices.Sorted(maps.Keys(results)) {
			d := results[n]
			list = append(list, below(ctx, store, ocispec.Descriptor{MediaType: d.MediaType, Digest: digest.Digest(d.Digest), Size: d.Size, Annotations: d.Annotations}, platform)...)
		}
	}
	add(h.GetResult(), "")
	for _, p := range slices.Sorted(maps.Keys(h.GetResults())) {
		add(h.Results[p], p)
	}
	slices.SortStableFunc(list, func(a, b attachment) int {
		return cmp.Or(cmp.Compare(a.Platform, b.Platform), cmp.Compare(a.Type, b.Type))
	})
	return list
}

// below is a document and those that it lists.
func below(ctx context.Context, store content.Store, d ocispec.Descriptor, platform string) (list []attachment) {
	if _, err := store.Info(ctx, d.Digest); err != nil || d.Annotations[annotationReference] != "" {
		return nil // it was removed with its image
	}
	list = append(list, attachment{d.Digest.String(), platform, d.MediaType})
	if !images.IsIndexType(d.MediaType) {
		return list
	}
	b, err := content.ReadBlob(ctx, store, d)
	var index ocispec.Index
	if err != nil || json.Unmarshal(b, &index) != nil {
		return list
	}
	for _, m := range index.Manifests {
		of := platform
		if of == "" && m.Platform != nil {
			of = m.Platform.OS + "/" + m.Platform.Architecture
			if m.Platform.Variant != "" {
				of += "/" + m.Platform.Variant
			}
		}
		list = append(list, below(ctx, store, m, of)...)
	}
	return list
}

// newAttachment is `history inspect attachment`.
func newAttachment(sh *shell.Shell) *cobra.Command {
	var kind, platform string
	cmd := &cobra.Command{
		Use: "attachment [OPTIONS] [REF [DIGEST]]", Short: "Inspect a build record attachment", Args: shell.MaxArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 && kind == "" && platform == "" {
				return errors.New("at least one of --type, --platform or DIGEST must be specified")
			}
			return failed(sh, "failed to inspect the attachment", withEngine(cmd.Context(), sh, func(ctx context.Context, e *engine) error {
				r, err := e.record(ctx, args[:min(len(args), 1)])
				if err != nil {
					return err
				}
				found, err := "", error(nil)
				for _, a := range e.attachments(ctx, r.raw) {
					types := kinds[kind]
					if types == nil {
						types = []string{kind}
					}
					if (len(args) < 2 || a.Digest == args[1]) && (platform == "" || a.Platform == platform) && (kind == "" || slices.Contains(types, a.Type)) {
						found = a.Digest
						break
					}
				}
				if found == "" {
					return fmt.Errorf("no matching attachment found for ref %q", r.Ref)
				}
				from, err := e.store().ReaderAt(ctx, ocispec.Descriptor{Digest: digest.Digest(found)})
				if err != nil {
					return err
				}
				defer from.Close()
				_, err = io.Copy(sh.Out, content.NewReader(from))
				return err
			}))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringVar(&kind, "type", "", `Type of attachment ("index", "manifest", "image", "provenance", "sbom" or a media type)`)
	f.StringVar(&platform, "platform", "", "Platform of attachment")
	complete(cmd, "type", slices.Sorted(maps.Keys(kinds))...)
	return cmd
}
