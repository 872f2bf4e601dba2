package transfer

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/image/manifest"
	"github.com/wherry-engine/wherry/internal/transfer/failure"
	"github.com/wherry-engine/wherry/internal/transfer/login"
	"github.com/wherry-engine/wherry/internal/transfer/progress"
)

// sourceLabel on a blob, with the registry's host behind it: the repositories
// there that are known to have the blob, so that a push need not send it again.
const sourceLabel = "containerd.io/distribution.source."

// maxSources bounds how many of them are remembered.
const maxSources = 8

// push is one repository on its way to a registry.
type push struct {
	*Client
	named  reference.Named
	to     *remote
	report *progress.Reporter
	sent   map[blob]bool // those that are there, or on their way
	mu     sync.Mutex
	packing
}

// blob is one that an image has, to be sent as it is or compressed.
type blob struct {
	digest.Digest
	packed bool
}

// Push sends an image, or all tags of a repository when ref has neither tag
// nor digest. platform, if given, sends that platform's manifest alone. The
// other arguments are Pull's.
func (c *Client) Push(ctx context.Context, ref, platform, auth string, send func(jsonstream.Message)) error {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return invalid("%v", err)
	}
	if _, ok := named.(reference.Canonical); ok {
		return invalid("cannot push a digest reference")
	}
	creds, err := login.Decode(auth)
	if err != nil {
		return err
	}
	list, err := c.remotes(reference.Domain(named), reference.Path(named), "pull,push", creds)
	if err != nil {
		return err
	}
	// What is taken for pushing must stay until it is sent.
	ctx, release, err := c.blobs.Lease(ctx)
	if err != nil {
		return err
	}
	defer release()
	p := &push{Client: c, named: named, report: progress.New(send), sent: map[blob]bool{},
		packing: packing{form: c.set.Load().Compression, done: manifest.Changes{}}}
	defer p.report.Close()
	p.report.Line("", "The push refers to repository ["+reference.TrimNamed(named).Name()+"]")
	tags, images, err := p.meant(ctx)
	if err != nil {
		return err
	}
	if err := p.connect(ctx, list); err != nil {
		return failure.About(failure.NotAsking(err), named)
	}
	for i, tag := range tags {
		if err := p.one(ctx, tag, images[i], platform); err != nil {
			return failure.About(failure.NotAsking(err), tag)
		}
	}
	return nil
}

// meant are the names that are pushed and their images.
func (p *push) meant(ctx context.Context) ([]reference.Named, []*image.Image, error) {
	known, tags := p.images.Tags(reference.TrimNamed(p.named)), []reference.Named{p.named}
	if reference.IsNameOnly(p.named) {
		tags = known
	}
	if len(known) == 0 {
		return nil, nil, notFound("An image does not exist locally with the tag: %s", reference.FamiliarName(p.named))
	}
	images := make([]*image.Image, len(tags))
	for i, tag := range tags {
		var err error
		if images[i], err = p.images.Resolve(ctx, tag.String()); errdefs.IsNotFound(err) {
			return nil, nil, notFound("tag does not exist: %s", reference.FamiliarString(tag))
		} else if err != nil {
			return nil, nil, err
		}
	}
	return tags, images, nil
}

// connect finds out which of the endpoints answers.
func (p *push) connect(ctx context.Context, list []*remote) error {
	used, err := p.firstOf(ctx, p.named.String(), list, func(ctx context.Context, r *remote) error {
		resp, err := r.do(ctx, call{method: http.MethodGet, url: r.base.JoinPath("v2", "/")})
		if err != nil {
			return err
		}
		if resp.StatusCode >= 500 {
			return failure.Read(resp)
		}
		drain(resp)
		return nil
	})
	if err == nil {
		p.to = list[used]
	}
	return err
}

func (p *push) one(ctx context.Context, ref reference.Named, img *image.Image, platform string) error {
	tagged, ok := ref.(reference.Tagged)
	if !ok {
		return invalid("%s has no tag", ref)
	}
	target, note, err := p.plan(ctx, img, platform)
	if err != nil {
		return err
	}
	pieces, _, err := p.images.Pieces(ctx, &image.Image{Target: target})
	if err != nil {
		return err
	}
	p.packed(ctx, img, pieces)
	if err := p.blobsOf(ctx, pieces); err != nil {
		return err
	}
	docs, changes, err := p.documents(ctx, pieces)
	if err != nil {
		return err
	}
	whole := target.Digest == img.Target.Digest
	if now, ok := changes[target.Digest]; ok {
		target = now
	}
	for _, doc := range docs {
		name := doc.Digest.String()
		if doc.Digest == target.Digest {
			name = tagged.Tag()
		}
		if err := p.manifest(ctx, doc, name); err != nil {
			return err
		}
	}
	p.report.Line("", fmt.Sprintf("%s: digest: %s size: %d", tagged.Tag(), target.Digest, target.Size))
	p.aux(map[string]any{"Tag": tagged.Tag(), "Digest": target.Digest.String(), "Size": target.Size})
	if note {
		p.aux(map[string]any{"manifestPushedInsteadOfIndex": true, "originalIndex": img.Target, "selectedManifest": target})
	}
	if c, err := reference.WithDigest(reference.TrimNamed(ref), target.Digest); err == nil && whole {
		if err := p.images.Pushed(ctx, img, c); err != nil {
			return err
		}
	}
	p.images.Announce(events.ActionPush, img, ref)
	return nil
}

func (p *push) aux(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		return // plain maps of text and numbers can be written
	}
	raw := json.RawMessage(b)
	p.report.Message(jsonstream.Message{Progress: &jsonstream.Progress{}, Aux: &raw})
}

// plan decides what is pushed: the target, or the manifest alone when a
// platform was asked for or the index names manifests that are nowhere.
func (p *push) plan(ctx context.Context, img *image.Image, platform string) (ocispec.Descriptor, bool, error) {
	pieces, missing, err := p.images.Pieces(ctx, img)
	if err != nil {
		return ocispec.Descriptor{}, false, err
	}
	if platform != "" {
		match := &pull{named: p.named, platform: platform}
		for _, piece := range pieces {
			if piece.Doc.Index != nil {
				d, err := match.choose(piece.Doc.Index.Manifests)
				if err != nil {
					return d, false, err
				}
				if slices.ContainsFunc(pieces, func(o image.Piece) bool { return o.Desc.Digest == d.Digest }) {
					return plain(d), false, nil
				}
				return d, false, notFound("image with reference %s was found but does not provide the specified platform (%s)", reference.FamiliarString(p.named), platform)
			}
		}
		return img.Target, false, nil
	}
	for _, d := range missing {
		there, err := p.to.has(ctx, "manifests", d.Digest.String())
		if err != nil {
			return d, false, err
		}
		if !there {
			return plain(img.Manifest), true, nil
		}
	}
	return img.Target, false, nil
}

func plain(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// blobsOf sends what the manifests refer to, all at a time.
func (p *push) blobsOf(ctx context.Context, pieces []image.Piece) error {
	g, ctx := errgroup.WithContext(ctx)
	slots := p.set.Load().uploads
	for _, piece := range pieces {
		if piece.Doc.Image == nil || attests(piece, p.changed) {
			continue
		}
		names := p.layerNames(ctx, piece)
		// The last layer first, as docker lists them.
		for i, d := range slices.Backward(append(slices.Clone(piece.Doc.Image.Layers), piece.Doc.Image.Config)) {
			name := ""
			if i < len(names) {
				name = names[i]
			}
			_, packed := p.plain[d.Digest]
			if p.sent[blob{d.Digest, packed}] {
				continue
			}
			p.sent[blob{d.Digest, packed}] = true
			p.state(name, "Preparing")
			waits := func() { p.state(name, "Waiting") }
			g.Go(func() error {
				// What another push sends to this registry is waited for: then it is
				// there, or taken from that one's repository.
				over, err := p.sending.Enter(ctx, fmt.Sprint(reference.Domain(p.named), d.Digest, packed), waits)
				if err != nil {
					return err
				}
				defer over()
				leave, err := slots.Enter(ctx, waits)
				if err != nil {
					return err
				}
				defer leave()
				if packed {
					return p.pack(ctx, d, name)
				}
				return p.blob(ctx, d, name)
			})
		}
	}
	return g.Wait()
}

// diffs are the diffIDs that a manifest's config lists; an attestation's is no image.
func (p *push) diffs(ctx context.Context, piece image.Piece) []digest.Digest {
	var config ocispec.Image
	if b, err := p.blobs.Read(ctx, piece.Doc.Image.Config.Digest, maxConfig); err == nil {
		_ = json.Unmarshal(b, &config) // none, then
	}
	return config.RootFS.DiffIDs
}

// layerNames are what the layers are shown as: docker shows diffIDs.
func (p *push) layerNames(ctx context.Context, piece image.Piece) (names []string) {
	diffs := p.diffs(ctx, piece)
	for i, l := range piece.Doc.Image.Layers {
		d := l.Digest
		if len(diffs) == len(piece.Doc.Image.Layers) {
			d = diffs[i]
		}
		names = append(names, id.Short(d.String()))
	}
	return names
}

// state says what is done with a layer; without a name nobody is told.
func (p *push) state(name, status string) {
	if name != "" {
		p.report.State(name, status)
	}
}

// there tells whether the repository has a blob, if it lets itself be asked.
func (p *push) there(ctx context.Context, d digest.Digest) (bool, error) {
	there, err := p.to.has(ctx, "blobs", d.String())
	if errdefs.IsPermissionDenied(err) {
		err = nil
	}
	return there, err
}

// blob makes sure that the registry has a blob.
func (p *push) blob(ctx context.Context, d ocispec.Descriptor, name string) error {
	there, err := p.there(ctx, d.Digest)
	if err != nil {
		return err
	}
	if there {
		p.state(name, "Layer already exists")
		return p.remember(ctx, d.Digest)
	}
	labels, err := p.blobs.Labels(ctx, d.Digest)
	if err != nil {
		return err
	}
	var in []string
	if list := labels[sourceLabel+reference.Domain(p.named)]; list != "" {
		in = strings.Split(list, ",")
	}
	location, from, err := p.begin(ctx, d.Digest, in)
	if err != nil {
		return err
	}
	if from != "" {
		p.state(name, "Mounted from "+from)
		return p.remember(ctx, d.Digest)
	}
	ra, err := p.blobs.Open(ctx, d.Digest)
	if err != nil {
		return err
	}
	defer ra.Close()
	if err := p.send(ctx, &stored{d, ra, func(done int64) {
		if name != "" {
			p.report.Bytes(name, "Pushing", done, d.Size)
		}
	}}, location); err != nil {
		return err
	}
	p.state(name, "Pushed")
	return p.remember(ctx, d.Digest)
}

// manifest sends a document under a tag or its digest.
func (p *push) manifest(ctx context.Context, d document, name string) error {
	resp, err := p.to.do(ctx, call{method: http.MethodPut, url: p.to.url("manifests", name),
		header: http.Header{"Content-Type": {d.MediaType}}, body: bodyOf(d.body), size: d.Size})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		return failure.Read(resp)
	}
	drain(resp)
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && strings.HasPrefix(got, "sha256:") && got != d.Digest.String() {
		return invalid("the registry stored %s as %s", d.Digest, failure.Clean(got))
	}
	return nil
}

// remember notes that the repository has a blob.
func (p *push) remember(ctx context.Context, d digest.Digest) error {
	return p.Client.remember(ctx, reference.Domain(p.named), reference.Path(p.named), d)
}

func (c *Client) remember(ctx context.Context, host, path string, d digest.Digest) error {
	key := sourceLabel + host
	labels, err := c.blobs.Labels(ctx, d)
	if err != nil {
		return err
	}
	var known []string
	if labels[key] != "" {
		known = strings.Split(labels[key], ",")
	}
	if slices.Contains(known, path) {
		return nil
	}
	known = append(known, path)
	if len(known) > maxSources {
		known = known[1:]
	}
	return c.blobs.Label(ctx, d, map[string]string{key: strings.Join(known, ",")})
}
