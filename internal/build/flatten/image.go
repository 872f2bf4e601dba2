package flatten

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/archive"
	"github.com/wherry-engine/wherry/internal/content"
)

// Option asks the engine's exporter for one layer on top of the parent's.
const Option = "squash"

// Image replaces what a build put on its parent by one layer, as the classic
// builder's --squash does: the history keeps the steps, as steps without a
// layer, and says at its end what was merged. resp is what BuildKit's exporter
// answered, and is changed to the new image.
func Image(ctx context.Context, store *content.Store, src *exporter.Source, target ocispec.Descriptor, resp map[string]string) (ocispec.Descriptor, error) {
	if images.IsIndexType(target.MediaType) {
		return target, errdefs.ErrInvalidArgument.WithMessage("--squash makes an image for one platform, without attestations")
	}
	b, err := store.Read(ctx, target.Digest, 8<<20)
	if err != nil {
		return target, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return target, fmt.Errorf("the manifest of the build: %w", err)
	}
	if b, err = store.Read(ctx, m.Config.Digest, 8<<20); err != nil {
		return target, err
	}
	var config ocispec.Image // for what is read here
	raw := map[string]json.RawMessage{}
	if err := json.Unmarshal(b, &config); err != nil {
		return target, fmt.Errorf("the configuration of the build: %w", err)
	}
	if err := json.Unmarshal(b, &raw); err != nil {
		return target, fmt.Errorf("the configuration of the build: %w", err)
	}
	p := platforms.DefaultSpec()
	var parent ocispec.Image
	if b := exptypes.ParseKey(src.Metadata, exptypes.ExporterImageBaseConfigKey, &exptypes.Platform{ID: platforms.FormatAll(p), Platform: p}); len(b) > 0 {
		if err := json.Unmarshal(b, &parent); err != nil {
			return target, fmt.Errorf("the configuration of the parent: %w", err)
		}
	}
	keep := len(parent.RootFS.DiffIDs)
	if keep > len(m.Layers) || len(m.Layers)-keep < 2 {
		return target, nil // there is nothing to merge
	}
	layer, err := merged(ctx, store, m.Layers[keep:])
	if err != nil {
		return target, fmt.Errorf("squash: %w", err)
	}
	for n := range config.History {
		if n >= len(parent.History) {
			config.History[n].EmptyLayer = true
		}
	}
	config.History = append(config.History, ocispec.History{
		Created: config.Created, Comment: fmt.Sprintf("merge %s to %s", m.Config.Digest, parentName(parent, keep)),
	})
	config.RootFS.DiffIDs = append(config.RootFS.DiffIDs[:keep:keep], layer.Digest)
	for key, v := range map[string]any{"history": config.History, "rootfs": config.RootFS} {
		if raw[key], err = json.Marshal(v); err != nil {
			return target, err
		}
	}
	if b, err = json.Marshal(raw); err != nil {
		return target, err
	}
	if m.Config, err = store.WriteBytes(ctx, m.Config.MediaType, b); err != nil {
		return target, err
	}
	m.Layers = append(m.Layers[:keep:keep], layer)
	if b, err = json.Marshal(m); err != nil {
		return target, err
	}
	annotations := target.Annotations
	if target, err = store.WriteBytes(ctx, target.MediaType, b); err != nil {
		return target, err
	}
	described := target
	described.Annotations = annotations
	if b, err = json.Marshal(described); err != nil {
		return target, err
	}
	resp[exptypes.ExporterImageDescriptorKey] = base64.StdEncoding.EncodeToString(b)
	resp[exptypes.ExporterImageDigestKey] = target.Digest.String()
	resp[exptypes.ExporterImageConfigDigestKey] = m.Config.Digest.String()
	return target, nil
}

func parentName(parent ocispec.Image, layers int) string {
	if layers == 0 {
		return "scratch"
	}
	return parent.RootFS.DiffIDs[layers-1].String()
}

// merged stores one layer made of several.
func merged(ctx context.Context, store *content.Store, layers []ocispec.Descriptor) (ocispec.Descriptor, error) {
	var open []Layer
	var closers []io.Closer
	defer func() {
		for _, c := range closers {
			c.Close()
		}
	}()
	for _, d := range layers {
		ra, err := store.Open(ctx, d.Digest)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		closers = append(closers, ra)
		var l Layer = ra
		if how, err := images.DiffCompression(ctx, d.MediaType); err != nil || how != "" {
			// A push has compressed it; what is read at any place must be plain.
			f, err := unpacked(io.NewSectionReader(ra, 0, ra.Size()))
			if err != nil {
				return ocispec.Descriptor{}, err
			}
			closers = append(closers, f)
			l = f
		}
		open = append(open, l)
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(Merge(w, open)) }()
	defer r.Close()
	d, _, err := store.Write(ctx, r, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer})
	return d, err
}

// plain is a temporary file without a name.
type plain struct {
	*os.File
	size int64
}

// Size is the file's length in bytes.
func (p plain) Size() int64 { return p.size }

// unpacked is what a compressed layer holds.
func unpacked(r io.Reader) (plain, error) {
	f, err := os.CreateTemp("", "wherry-squash-")
	if err != nil {
		return plain{}, err
	}
	os.Remove(f.Name())
	in, _, err := archive.Decompress(r)
	if err != nil {
		f.Close()
		return plain{}, err
	}
	defer in.Close()
	n, err := io.Copy(f, in)
	if err != nil {
		f.Close()
		return plain{}, err
	}
	return plain{f, n}, nil
}

// Wanted reads the option.
func Wanted(attrs map[string]string) (bool, error) {
	v := attrs[Option]
	if v == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(v)
	if err != nil {
		return false, errdefs.ErrInvalidArgument.WithMessage("non-bool value specified for " + Option)
	}
	return on, nil
}
