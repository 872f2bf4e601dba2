package build

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/cache"
	cacheconfig "github.com/moby/buildkit/cache/config"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/compression"
	"github.com/moby/buildkit/util/progress"
	"github.com/moby/buildkit/worker/base"
	"github.com/moby/moby/api/types/events"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/build/answer"
	"github.com/wherry-engine/wherry/internal/build/flatten"
	"github.com/wherry-engine/wherry/internal/image"
)

// ownWorker is BuildKit's worker with an exporter into the engine's images.
type ownWorker struct {
	*base.Worker
	engine *engine
}

// exporterMoby is what docker's clients ask for when the image is for the
// engine itself.
const exporterMoby = "moby"

// Exporter gives the exporter of that name.
func (w *ownWorker) Exporter(name string, sm *session.Manager) (exporter.Exporter, error) {
	if name != exporterMoby && name != client.ExporterImage {
		return w.Worker.Exporter(name, sm)
	}
	inner, err := w.Worker.Exporter(client.ExporterImage, sm)
	if err != nil {
		return nil, err
	}
	return &imageExporter{inner: inner, engine: w.engine}, nil
}

// imageExporter has BuildKit write manifest and layers, and hands them to the
// image store under the names that were asked for.
type imageExporter struct {
	inner  exporter.Exporter
	engine *engine
}

// Resolve reads the options.
func (x *imageExporter) Resolve(ctx context.Context, id int, attrs map[string]string) (exporter.ExporterInstance, error) {
	attrs = maps.Clone(attrs)
	if attrs == nil {
		attrs = map[string]string{}
	}
	i := &imageExport{engine: x.engine, images: x.engine.b.cfg.Images, attrs: maps.Clone(attrs), store: true}
	for n := range strings.SplitSeq(attrs[string(exptypes.OptKeyName)], ",") {
		if n = strings.TrimSpace(n); n == "" || n == "*" {
			continue
		}
		named, err := reference.ParseNormalizedNamed(n)
		if err != nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid tag %q: %s", n, err))
		}
		if _, ok := named.(reference.Digested); ok {
			return nil, errdefs.ErrInvalidArgument.WithMessage("refusing to create a tag with a digest reference: " + n)
		}
		i.names = append(i.names, reference.TagNameOnly(named))
	}
	if v, ok := attrs[string(exptypes.OptKeyStore)]; ok && v != "" {
		on, err := strconv.ParseBool(v)
		if err != nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage("non-bool value specified for store")
		}
		i.store = on
	}
	if v, ok := attrs[string(exptypes.OptKeyPush)]; ok && v != "" {
		i.push, _ = strconv.ParseBool(v) // the inner exporter complains
	} else if ok {
		i.push = true
	}
	var err error
	if i.flat, err = flatten.Wanted(attrs); err != nil {
		return nil, err
	}
	if i.flat && i.push {
		return nil, errdefs.ErrInvalidArgument.WithMessage("an image that is squashed is pushed after it was built")
	}
	delete(attrs, flatten.Option)
	// Naming and unpacking are the image store's business.
	for _, k := range []exptypes.ImageExporterOptKey{exptypes.OptKeyUnpack, exptypes.OptKeyDanglingPrefix, exptypes.OptKeyDanglingEmptyOnly, exptypes.OptKeyNameCanonical, "danging-name-empty-only", "danging-name-prefix"} {
		delete(attrs, string(k))
	}
	attrs[string(exptypes.OptKeyStore)] = "false"
	if _, ok := attrs[string(exptypes.OptKeyLayerCompression)]; !ok && !i.push {
		// As with commit: what stays here is not compressed; a push compresses.
		attrs[string(exptypes.OptKeyLayerCompression)] = "uncompressed"
	}
	if i.compression, err = compression.ParseAttributes(attrs); err != nil {
		return nil, err
	}
	inner, err := x.inner.Resolve(ctx, id, attrs)
	i.ExporterInstance = inner
	return i, err
}

// imageExport is one export.
type imageExport struct {
	exporter.ExporterInstance
	engine *engine
	images *image.Store
	attrs  map[string]string
	names  []reference.Named
	store  bool
	push   bool
	flat   bool // squash

	compression compression.Config
}

// Type is shown by the history of builds.
func (i *imageExport) Type() string { return exporterMoby }

// Attrs are the options as they came.
func (i *imageExport) Attrs() map[string]string { return i.attrs }

// Export makes the image. It is durable, and can be run, when Export returns.
func (i *imageExport) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (map[string]string, exporter.FinalizeFunc, exporter.DescriptorReference, error) {
	ctx, release, err := i.images.Content().Lease(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	held := false
	defer func() {
		if !held {
			release()
		}
	}()
	resp, finalize, ref, err := i.ExporterInstance.Export(ctx, src, info)
	if err != nil {
		return nil, nil, nil, err
	}
	var desc ocispec.Descriptor
	raw, err := base64.StdEncoding.DecodeString(resp[exptypes.ExporterImageDescriptorKey])
	if err == nil {
		err = json.Unmarshal(raw, &desc)
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("the image's descriptor: %w", err)
	}
	if i.flat {
		if desc, err = flatten.Image(ctx, i.images.Content(), src, desc, resp); err != nil {
			return nil, nil, nil, err
		}
	}
	if i.store {
		if err := i.fetch(ctx, src, info.SessionID); err != nil {
			return nil, nil, nil, err
		}
		if err := i.receive(ctx, src, desc, resp); err != nil {
			return nil, nil, nil, err
		}
	}
	held = true
	if finalize == nil { // else the image is pushed yet
		answer.Give(ctx, resp, src.Metadata)
	}
	return resp, finalize, &leased{DescriptorReference: ref, release: release}, nil
}

// fetch brings what a build took from a registry's cache and needed no file of.
func (i *imageExport) fetch(ctx context.Context, src *exporter.Source, id string) error {
	refs := []cache.ImmutableRef{src.Ref}
	for _, ref := range src.Refs {
		refs = append(refs, ref)
	}
	for _, ref := range refs {
		if ref == nil {
			continue
		}
		remotes, err := ref.GetRemotes(ctx, false, cacheconfig.RefConfig{Compression: i.compression}, false, session.NewGroup(id))
		if err != nil {
			return err
		}
		if lazy, ok := remotes[0].Provider.(cache.Unlazier); ok {
			if err := lazy.Unlazy(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// leased ends a lease with the last use of what it keeps.
type leased struct {
	exporter.DescriptorReference
	release func()
}

func (l *leased) Release() error {
	err := l.DescriptorReference.Release()
	l.release()
	return err
}

// receive gives the image to the store.
func (i *imageExport) receive(ctx context.Context, src *exporter.Source, target ocispec.Descriptor, resp map[string]string) (err error) {
	what := []string{"exporting to the engine's images"}
	if len(i.names) > 0 {
		what = what[:0]
		for _, n := range i.names {
			what = append(what, "naming to "+n.String())
		}
	}
	for _, w := range what {
		done := progress.OneOff(ctx, w)
		defer func() { err = done(err) }()
	}
	m, err := i.own(ctx, target)
	if err != nil {
		return err
	}
	if err := i.adopt(ctx, src, m); err != nil {
		return err
	}
	x := image.NewExchange(i.images)
	img, _, err := x.Receive(ctx, image.Arrival{Target: target, Manifest: m, Names: i.names, Anonymous: len(i.names) == 0})
	if err != nil {
		return err
	}
	resp[exptypes.ExporterImageConfigDigestKey] = img.ID.String()
	var familiar []string
	for _, n := range i.names {
		familiar = append(familiar, n.String())
		x.Announce(events.ActionTag, img, n)
	}
	if len(familiar) > 0 {
		resp[exptypes.ExporterImageNameKey] = strings.Join(familiar, ",")
	}
	return nil
}

// adopt lets the image have the layers of the build.
func (i *imageExport) adopt(ctx context.Context, src *exporter.Source, m ocispec.Descriptor) error {
	var doc ocispec.Manifest
	if err := i.read(ctx, m, &doc); err != nil {
		return err
	}
	var config ocispec.Image
	if err := i.read(ctx, doc.Config, &config); err != nil {
		return err
	}
	ref := src.Ref
	if ref == nil && m.Platform != nil {
		ref, _ = src.FindRef(platforms.Format(platforms.Normalize(*m.Platform)))
	}
	if ref == nil && len(src.Refs) == 1 {
		for _, only := range src.Refs {
			ref = only
		}
	}
	return i.engine.adopt(ctx, ref, config.RootFS.DiffIDs)
}

func (i *imageExport) read(ctx context.Context, d ocispec.Descriptor, to any) error {
	b, err := i.images.Content().Read(ctx, d.Digest, 8<<20)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, to)
}

// own finds the manifest for this host below a target that may be an index.
// An image for other platforms alone is kept by its first manifest.
func (i *imageExport) own(ctx context.Context, target ocispec.Descriptor) (ocispec.Descriptor, error) {
	if !images.IsIndexType(target.MediaType) {
		return target, nil
	}
	var index ocispec.Index
	if err := i.read(ctx, target, &index); err != nil {
		return target, err
	}
	match := platforms.Default()
	var first, best *ocispec.Descriptor
	for n := range index.Manifests {
		m := &index.Manifests[n]
		if m.Platform == nil || m.Platform.OS == "unknown" {
			continue
		}
		if first == nil {
			first = m
		}
		if match.Match(*m.Platform) && (best == nil || match.Less(*m.Platform, *best.Platform)) {
			best = m
		}
	}
	switch {
	case best != nil:
		return *best, nil
	case first != nil:
		return *first, nil
	}
	return target, errdefs.ErrInvalidArgument.WithMessage("the build's result has no image")
}
