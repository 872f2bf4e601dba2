package transfer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/image/manifest"
	"github.com/wherry-engine/wherry/internal/snapshot"
	"github.com/wherry-engine/wherry/internal/transfer/failure"
	"github.com/wherry-engine/wherry/internal/transfer/login"
	"github.com/wherry-engine/wherry/internal/transfer/progress"
)

// Limits on what belongs to an image besides its layers.
const (
	maxConfig       = 8 << 20
	maxAttestations = 100
	maxAttested     = 256 << 20 // bytes of all of them
)

// pull is one image on its way here.
type pull struct {
	*Client
	named    reference.Named // tagged, canonical or both
	platform string
	from     []*remote
	report   *progress.Reporter
}

// Pull fetches an image: ref is a name with tag or digest, or without either
// for all tags; platform may be "". auth is an X-Registry-Auth header.
// send is called by one goroutine at a time and not after Pull returned.
func (c *Client) Pull(ctx context.Context, ref, platform, auth string, send func(jsonstream.Message)) error {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return invalid("%v", err)
	}
	creds, err := login.Decode(auth)
	if err != nil {
		return err
	}
	if platform != "" {
		if _, err := platforms.Parse(platform); err != nil {
			return invalid("%v", err)
		}
	}
	from, err := c.remotes(reference.Domain(named), reference.Path(named), "pull", creds)
	if err != nil {
		return err
	}
	p := &pull{Client: c, named: named, platform: platform, from: from, report: progress.New(send)}
	defer p.report.Close()
	if !reference.IsNameOnly(named) {
		fresh, err := p.one(ctx)
		if err == nil {
			p.status(fresh)
		}
		return failure.OfPull(err, named)
	}
	return p.allTags(ctx)
}

func (p *pull) allTags(ctx context.Context) error {
	var tags []string
	used, err := p.firstOf(ctx, p.named.String(), p.from, func(ctx context.Context, r *remote) (err error) {
		tags, err = r.tags(ctx)
		return err
	})
	if err != nil {
		return failure.OfPull(err, p.named)
	}
	p.from = p.from[used:]
	any := false
	for _, tag := range tags {
		t, err := reference.WithTag(p.named, tag)
		if err != nil {
			return invalid("%v", err)
		}
		one := *p
		one.named = t
		fresh, err := one.one(ctx)
		if err != nil {
			return failure.OfPull(err, t)
		}
		any = any || fresh
	}
	p.status(any)
	return nil
}

// status is the last line of a pull.
func (p *pull) status(fresh bool) {
	text := "Status: Image is up to date for "
	if fresh {
		text = "Status: Downloaded newer image for "
	}
	p.report.Line("", text+reference.FamiliarString(p.named))
}

// one pulls what p.named refers to, and tells whether that is new here.
func (p *pull) one(ctx context.Context) (fresh bool, err error) {
	top, err := p.find(ctx)
	if err != nil {
		return false, err
	}
	tag := ""
	if t, ok := p.named.(reference.Tagged); ok {
		tag = t.Tag()
	}
	if c, ok := p.named.(reference.Canonical); ok {
		tag = c.Digest().String()
	}
	p.report.Line(tag, "Pulling from "+reference.Path(p.named))
	if c, err := reference.WithDigest(reference.TrimNamed(p.named), top.desc.Digest); err == nil && p.platform == "" {
		if img, fresh, ok, err := p.images.Again(ctx, c, p.names(top)); ok || err != nil {
			return fresh, p.pulled(top, img, err)
		}
	}
	ctx, end, err := p.blobs.Resume(ctx, "pull-"+top.desc.Digest.Encoded())
	if err != nil {
		return false, err
	}
	img, fresh, err := p.bring(ctx, top)
	if err != nil {
		// Blobs that the next try can use stay; layers that were being unpacked
		// go in any case, and now: a later engine would not know of them.
		end(ctx.Err() != nil || failure.Temporary(err))
		p.images.Abandon(ctx, err)
		return false, err
	}
	end(false)
	return fresh, p.pulled(top, img, nil)
}

// pulled tells of it.
func (p *pull) pulled(top *fetched, img *image.Image, err error) error {
	if err == nil {
		p.report.Line("", "Digest: "+top.desc.Digest.String())
		p.images.Announce(events.ActionPull, img, p.named)
	}
	return err
}

// find gets the top manifest or index from the first remote that has it.
// Mirrors that failed are not asked for anything else.
func (p *pull) find(ctx context.Context) (top *fetched, err error) {
	ref, want := "", ocispec.Descriptor{}
	if t, ok := p.named.(reference.Tagged); ok {
		ref = t.Tag()
	}
	if c, ok := p.named.(reference.Canonical); ok {
		ref, want.Digest = c.Digest().String(), c.Digest()
	}
	used, err := p.firstOf(ctx, reference.FamiliarString(p.named), p.from, func(ctx context.Context, r *remote) (err error) {
		top, err = r.manifest(ctx, ref, want)
		return err
	})
	if err != nil {
		return nil, p.about(err)
	}
	if p.from = p.from[used:]; !p.from[0].mirror {
		p.from = p.from[:1] // it is known now which of https and http it speaks
	}
	return top, nil
}

// about names the image in an error about what it holds.
func (p *pull) about(err error) error {
	if errdefs.IsInvalidArgument(err) && !failure.Answered(err) {
		return errdefs.ErrInvalidArgument.WithMessage(reference.FamiliarString(p.named) + ": " + err.Error())
	}
	return err
}

// bring fetches everything below top and hands it to the image store.
func (p *pull) bring(ctx context.Context, top *fetched) (*image.Image, bool, error) {
	if err := p.keep(ctx, top); err != nil {
		return nil, false, err
	}
	run := top
	if top.doc.Index != nil {
		d, err := p.choose(top.doc.Index.Manifests)
		if err != nil {
			return nil, false, err
		}
		if run, err = p.document(ctx, d); err != nil {
			return nil, false, err
		}
		if run.doc.Image == nil { // an index in an index
			return nil, false, p.about(invalid("index %s: nested too deep", d.Digest))
		}
	}
	if err := p.check(run.doc); err != nil {
		return nil, false, p.about(err)
	}
	g, gctx := errgroup.WithContext(ctx)
	var extra []ocispec.Descriptor
	if top.doc.Index != nil {
		extra = attestations(top.doc.Index.Manifests, run.desc)
	}
	if len(extra) > maxAttestations {
		return nil, false, p.about(invalid("index %s has %d attestations of one manifest, more than %d", top.desc.Digest, len(extra), maxAttestations))
	}
	g.Go(func() error {
		left := int64(maxAttested)
		for _, d := range extra {
			if err := p.attestation(gctx, d, &left); err != nil {
				return err
			}
		}
		return nil
	})
	var img *image.Image
	var fresh bool
	g.Go(func() (err error) {
		img, fresh, err = p.layers(gctx, g, top, run)
		return err
	})
	if err := g.Wait(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, false, p.about(err)
	}
	return img, fresh, nil
}

// layers fetches config and layers, each unpacked as soon as it is there.
func (p *pull) layers(ctx context.Context, g *errgroup.Group, top, run *fetched) (*image.Image, bool, error) {
	list := run.doc.Image.Layers
	ready := make([]chan struct{}, len(list))
	ids := make([]string, len(list))
	old := make([]bool, len(list))
	for i, l := range list {
		ready[i], ids[i] = make(chan struct{}), id.Short(l.Digest.String())
		if size, err := p.blobs.Size(ctx, l.Digest); err == nil && size == l.Size {
			old[i] = true
			if err := p.blobs.Hold(ctx, leases.Resource{ID: l.Digest.String(), Type: "content"}); err != nil {
				return nil, false, err
			}
		}
	}
	for i := range list {
		if old[i] {
			p.report.State(ids[i], "Already exists")
			close(ready[i])
		} else {
			p.report.State(ids[i], "Pulling fs layer")
		}
	}
	for i, l := range list {
		if old[i] {
			continue
		}
		g.Go(func() error {
			err := p.fetch(ctx, p.named, p.from, l, p.watch(ids[i], l.Size))
			if err != nil {
				return err
			}
			p.report.State(ids[i], "Download complete")
			close(ready[i])
			return nil
		})
	}
	if err := p.config(ctx, run.doc.Image.Config); err != nil {
		return nil, false, err
	}
	a := image.Arrival{Target: top.desc, Manifest: run.desc, Names: p.names(top),
		Ready: func(ctx context.Context, n int) error {
			select {
			case <-ready[n]:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		},
		Unpacking: func(n int, done, total int64) { p.report.Bytes(ids[n], "Extracting", done, total) },
		Unpacked: func(n int) {
			if !old[n] {
				p.report.State(ids[n], "Pull complete")
			}
		}}
	return p.images.Receive(ctx, a)
}

// watch turns a download's progress into messages.
func (p *pull) watch(name string, total int64) observer {
	return func(s stage, done int64, retry time.Duration) {
		switch {
		case retry > 0:
			unit := "seconds"
			if retry < 2*time.Second {
				unit = "second"
			}
			p.report.State(name, fmt.Sprintf("Retrying in %d %s", int(retry.Seconds()), unit))
		case s == waiting:
			p.report.State(name, "Waiting")
		case s == verifying:
			p.report.State(name, "Verifying Checksum")
		default:
			p.report.Bytes(name, "Downloading", done, total)
		}
	}
}

// names lists what the image is called from now on.
func (p *pull) names(top *fetched) []reference.Named {
	var list []reference.Named
	base := reference.TrimNamed(p.named)
	if c, err := reference.WithDigest(base, top.desc.Digest); err == nil {
		list = append(list, c)
	}
	if _, byDigest := p.named.(reference.Canonical); !byDigest {
		list = append(list, p.named)
	}
	return list
}

// check refuses what cannot become an image before anything of it is fetched.
func (p *pull) check(doc *manifest.Document) error {
	m := doc.Image
	switch m.Config.MediaType {
	case manifest.DockerConfig, ocispec.MediaTypeImageConfig:
	default:
		return invalid("Encountered remote %q(unknown) when fetching", failure.Clean(m.Config.MediaType))
	}
	if len(m.Layers) > snapshot.MaxDepth {
		return invalid("max depth exceeded: it has %d layers, more than %d", len(m.Layers), snapshot.MaxDepth)
	}
	return manifest.CheckLayers(m)
}

// keep puts a document into the store.
func (p *pull) keep(ctx context.Context, f *fetched) error {
	_, err := p.blobs.WriteBytes(ctx, f.desc.MediaType, f.body)
	return err
}

// document gets a manifest by descriptor, from here if it is here.
func (p *pull) document(ctx context.Context, d ocispec.Descriptor) (*fetched, error) {
	if d.Size > manifest.MaxSize {
		return nil, p.about(invalid("manifest %s has %d bytes, more than %d", d.Digest, d.Size, manifest.MaxSize))
	}
	if err := p.blobs.Hold(ctx, leases.Resource{ID: d.Digest.String(), Type: "content"}); err != nil {
		return nil, err
	}
	if b, err := p.blobs.Read(ctx, d.Digest, manifest.MaxSize); err == nil {
		doc, err := manifest.Parse(d, b)
		if err != nil {
			return nil, p.about(err)
		}
		return &fetched{desc: ocispec.Descriptor{MediaType: doc.MediaType, Digest: d.Digest, Size: int64(len(b))}, body: b, doc: doc}, nil
	}
	var f *fetched
	_, err := p.firstOf(ctx, reference.FamiliarString(p.named), p.from, func(ctx context.Context, r *remote) (err error) {
		f, err = r.manifest(ctx, d.Digest.String(), d)
		return err
	})
	if err == nil && d.Size > 0 && d.Size != f.desc.Size {
		err = invalid("manifest %s has %d bytes, its reference says %d", d.Digest, f.desc.Size, d.Size)
	}
	if err != nil {
		return nil, p.about(err)
	}
	return f, p.keep(ctx, f)
}

// config gets an image's config.
func (p *pull) config(ctx context.Context, d ocispec.Descriptor) error {
	if err := p.blobs.Hold(ctx, leases.Resource{ID: d.Digest.String(), Type: "content"}); err != nil {
		return err
	}
	if _, err := p.blobs.Size(ctx, d.Digest); err == nil {
		return nil
	}
	var b []byte
	_, err := p.firstOf(ctx, reference.FamiliarString(p.named), p.from, func(ctx context.Context, r *remote) (err error) {
		b, err = r.small(ctx, d, maxConfig)
		return err
	})
	if err != nil {
		return err
	}
	_, err = p.blobs.WriteBytes(ctx, d.MediaType, b)
	return err
}

// choose finds the manifest to run in an index: the one for the platform that
// was asked for, else the best one for this host.
func (p *pull) choose(list []ocispec.Descriptor) (ocispec.Descriptor, error) {
	want := platforms.DefaultSpec()
	match := platforms.Default()
	if p.platform != "" {
		spec, err := platforms.Parse(p.platform)
		if err != nil {
			return ocispec.Descriptor{}, invalid("%v", err)
		}
		want, match = spec, platforms.Only(spec)
	}
	var fit []ocispec.Descriptor
	for _, d := range list {
		if d.Annotations["vnd.docker.reference.type"] != "" || !manifest.Is(d.MediaType) || d.MediaType == "" {
			continue
		}
		if d.Platform == nil || match.Match(*d.Platform) {
			fit = append(fit, d)
		}
	}
	if len(fit) == 0 {
		return ocispec.Descriptor{}, notFound("no matching manifest for %s in the manifest list entries: no match for platform in manifest", platforms.FormatAll(want))
	}
	sort.SliceStable(fit, func(i, j int) bool {
		a, b := fit[i].Platform, fit[j].Platform
		if a == nil || b == nil {
			return a != nil
		}
		return match.Less(*a, *b)
	})
	return fit[0], nil
}

// attestations lists what an index says about one of its manifests.
func attestations(list []ocispec.Descriptor, of ocispec.Descriptor) (out []ocispec.Descriptor) {
	for _, d := range list {
		if d.Annotations["vnd.docker.reference.digest"] == of.Digest.String() && manifest.Is(d.MediaType) {
			out = append(out, d)
		}
	}
	return out
}

// attestation fetches one of them with what belongs to it, of which there may be
// left bytes more.
func (p *pull) attestation(ctx context.Context, d ocispec.Descriptor, left *int64) error {
	f, err := p.document(ctx, d)
	if err != nil {
		return err
	}
	if f.doc.Image == nil {
		return invalid("attestation %s is an index", d.Digest)
	}
	for _, b := range append(slices.Clone(f.doc.Image.Layers), f.doc.Image.Config) {
		if *left -= b.Size; b.Size < 0 || *left < 0 {
			return invalid("attestation %s has more than %d bytes", d.Digest, maxAttested)
		}
		if err := p.fetch(ctx, p.named, p.from, b, func(stage, int64, time.Duration) {}); err != nil {
			return err
		}
	}
	return nil
}

// Unreachable tells whether a pull failed only because nobody could be asked.
func Unreachable(err error) bool {
	return failure.Unreachable(err) || errors.Is(err, context.DeadlineExceeded)
}
