package transfer

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/image/manifest"
	"github.com/wherry-engine/wherry/internal/transfer/pack"
)

const (
	// maxPacks is how many layers are compressed at a time, of all pushes: each
	// keeps several processors busy, and takes memory.
	maxPacks = 2

	inToto       = "application/vnd.in-toto+json"
	maxStatement = 32 << 20 // of an attestation, which is rewritten in memory
)

// packing is what a push compresses, and what became of it.
type packing struct {
	form    pack.Form
	plain   map[digest.Digest]ocispec.Descriptor // layers to be compressed, with the media type that they are to have
	changed map[digest.Digest]bool               // manifests that have such layers
	done    manifest.Changes                     // guarded by push.mu
}

// packed decides what of an image is compressed. An image that a registry knows
// by the digest that it has here keeps it, and so does one with an attestation
// that cannot be made to speak of another.
func (p *push) packed(ctx context.Context, img *image.Image, pieces []image.Piece) {
	p.plain, p.changed = map[digest.Digest]ocispec.Descriptor{}, map[digest.Digest]bool{}
	if slices.ContainsFunc(img.RepoDigests, func(name string) bool { return strings.HasSuffix(name, "@"+img.Target.Digest.String()) }) {
		return
	}
	plain, changed := map[digest.Digest]ocispec.Descriptor{}, map[digest.Digest]bool{}
	for _, piece := range pieces {
		if piece.Doc.Image == nil {
			continue
		}
		diffs := p.diffs(ctx, piece)
		for i, l := range piece.Doc.Image.Layers {
			if kind, ok := p.form.MediaType(l.MediaType); ok && len(diffs) == len(piece.Doc.Image.Layers) && diffs[i] == l.Digest {
				l.MediaType = kind
				plain[l.Digest], changed[piece.Desc.Digest] = l, true
			}
		}
	}
	for _, piece := range pieces {
		if !attests(piece, changed) {
			continue
		}
		for _, l := range append(slices.Clone(piece.Doc.Image.Layers), piece.Doc.Image.Config) {
			if l.Digest != piece.Doc.Image.Config.Digest && l.MediaType != inToto || l.Size > maxStatement {
				return
			}
		}
	}
	p.plain, p.changed = plain, changed
}

// attests tells whether a document says something of one of some manifests.
func attests(piece image.Piece, of map[digest.Digest]bool) bool {
	return piece.Doc.Image != nil && of[digest.Digest(piece.Desc.Annotations[manifest.AttestationOf])]
}

// pack makes sure that the registry has the compressed form of a plain layer.
func (p *push) pack(ctx context.Context, d ocispec.Descriptor, name string) error {
	labels, err := p.blobs.Labels(ctx, d.Digest)
	if err != nil {
		return err
	}
	host := reference.Domain(p.named)
	was, in, _ := p.form.Recall(labels, host)
	done := func(now ocispec.Descriptor, status string) error {
		p.state(name, status)
		p.mu.Lock()
		p.packing.done[d.Digest] = ocispec.Descriptor{MediaType: p.plain[d.Digest].MediaType, Digest: now.Digest, Size: now.Size}
		p.mu.Unlock()
		return p.blobs.Label(ctx, d.Digest, p.form.Remember(labels, host, reference.Path(p.named), now))
	}
	if was.Digest != "" {
		if there, err := p.there(ctx, was.Digest); err != nil {
			return err
		} else if there {
			return done(was, "Layer already exists")
		}
	}
	var location *url.URL
	if len(in) > 0 {
		var from string
		if location, from, err = p.begin(ctx, was.Digest, in); err != nil {
			return err
		} else if from != "" {
			return done(was, "Mounted from "+from)
		}
	}
	leave, err := p.packs.Enter(ctx, nil)
	if err != nil {
		return err
	}
	defer leave()
	f := &pack.Layer{Form: p.form, Digest: d.Digest, Open: func() (io.ReadCloser, error) {
		in, _, err := p.blobs.Reader(ctx, d.Digest)
		if err != nil {
			return nil, err
		}
		return struct {
			io.Reader
			io.Closer
		}{&meter{r: in, report: func(n int64) { p.report.Bytes(name, "Pushing", n, d.Size) }}, in}, nil
	}}
	defer f.Close()
	if _, _, last, err := f.Next(0, 0); err != nil {
		return err
	} else if now := f.Descriptor(); last && now.Digest != was.Digest {
		// It is known before anything is sent what it is.
		if there, err := p.there(ctx, now.Digest); err != nil {
			return err
		} else if there {
			return done(now, "Layer already exists")
		}
	}
	if location == nil {
		if location, _, err = p.begin(ctx, "", nil); err != nil {
			return err
		}
	}
	if err := p.send(ctx, f, location); err != nil {
		return err
	}
	return done(f.Descriptor(), "Pushed")
}

// document is a manifest or index as it is pushed.
type document struct {
	ocispec.Descriptor
	body []byte
}

// documents are those of an image, each after what it refers to, as they are
// with compressed layers: what is attested of a manifest then speaks of the new
// one. What attestations consist of is sent on the way.
func (p *push) documents(ctx context.Context, pieces []image.Piece) (list []document, _ manifest.Changes, err error) {
	changes := manifest.Changes{} // not those of other images of this push
	for d := range p.plain {
		if now, ok := p.packing.done[d]; ok {
			changes[d] = now
		}
	}
	order := func(piece image.Piece) int {
		switch {
		case piece.Doc.Index != nil:
			return 2
		case piece.Desc.Annotations[manifest.AttestationOf] != "":
			return 1
		}
		return 0
	}
	pieces = slices.Clone(pieces)
	slices.SortStableFunc(pieces, func(a, b image.Piece) int { return cmp.Compare(order(a), order(b)) })
	for _, piece := range pieces {
		b, err := p.blobs.Read(ctx, piece.Desc.Digest, manifest.MaxSize)
		if err != nil {
			return nil, nil, err
		}
		if attests(piece, p.changed) {
			for _, d := range append(slices.Clone(piece.Doc.Image.Layers), piece.Doc.Image.Config) {
				if err := p.statement(ctx, d, changes); err != nil {
					return nil, nil, err
				}
			}
		}
		out, err := changes.Rewrite(b)
		if err != nil {
			return nil, nil, err
		}
		d := ocispec.Descriptor{MediaType: piece.Desc.MediaType, Digest: digest.FromBytes(out), Size: int64(len(out))}
		if d.Digest != piece.Desc.Digest {
			changes[piece.Desc.Digest] = d
		}
		list = append(list, document{d, out})
	}
	return list, changes, nil
}

// statement sends a blob of an attestation, which speaks of the manifest that
// is pushed.
func (p *push) statement(ctx context.Context, was ocispec.Descriptor, changes manifest.Changes) error {
	b, err := p.blobs.Read(ctx, was.Digest, maxStatement)
	if err != nil {
		return err
	}
	b = changes.Rename(b)
	d := ocispec.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))}
	if d.Digest != was.Digest {
		changes[was.Digest] = d
	}
	if there, err := p.there(ctx, d.Digest); err != nil || there {
		return err
	}
	location, _, err := p.begin(ctx, "", nil)
	if err != nil {
		return err
	}
	return p.send(ctx, &stored{d, bytes.NewReader(b), func(int64) {}}, location)
}
