package sweep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Untagged is a manifest that no tag leads to.
type Untagged struct {
	Repository string
	Digest     digest.Digest
	tags       []string // of the repository: their histories may name it
}

// Untagged lists, after Load, the manifests that no tag leads to. A tag leads
// to its manifest, from there to the parts of an index, and to what names one of
// these as its subject: a signature has no tag of its own.
func (l *Ledger) Untagged(ctx context.Context) (list []Untagged, err error) {
	l.mu.Lock()
	in := map[string]map[digest.Digest][]digest.Digest{}
	for m, keeps := range l.keeps {
		if in[m.repository] == nil {
			in[m.repository] = map[digest.Digest][]digest.Digest{}
		}
		in[m.repository][m.digest] = keeps
	}
	l.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(in)) {
		more, err := l.untagged(ctx, name, in[name])
		if err != nil {
			return nil, fmt.Errorf("repository %s: %w", name, err)
		}
		list = append(list, more...)
	}
	return list, nil
}

func (l *Ledger) untagged(ctx context.Context, name string, all map[digest.Digest][]digest.Digest) (list []Untagged, err error) {
	named, err := reference.WithName(name)
	if err != nil {
		return nil, err
	}
	repo, err := l.registry.Repository(ctx, named)
	if err != nil {
		return nil, err
	}
	tags, err := repo.Tags(ctx).All(ctx)
	if err != nil && !errors.As(err, new(distribution.ErrRepositoryUnknown)) {
		return nil, err
	}
	var next []digest.Digest
	for _, tag := range tags {
		desc, err := repo.Tags(ctx).Get(ctx, tag)
		if errors.As(err, new(distribution.ErrTagUnknown)) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("tag %s: %w", tag, err)
		}
		next = append(next, desc.Digest)
	}
	about, err := subjects(ctx, repo, all)
	if err != nil {
		return nil, err
	}
	led := map[digest.Digest]bool{}
	for len(next) > 0 {
		d := next[0]
		next = next[1:]
		if led[d] {
			continue
		}
		led[d] = true
		next = append(next, all[d]...)
		next = append(next, about[d]...)
	}
	for d := range all {
		if !led[d] {
			list = append(list, Untagged{name, d, tags})
		}
	}
	slices.SortFunc(list, func(a, b Untagged) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	return list, nil
}

// subjects finds, for each digest, the manifests that name it as their subject.
func subjects(ctx context.Context, repo distribution.Repository, all map[digest.Digest][]digest.Digest) (map[digest.Digest][]digest.Digest, error) {
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return nil, err
	}
	about := map[digest.Digest][]digest.Digest{}
	for d := range all {
		m, err := manifests.Get(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d, err)
		}
		_, body, err := m.Payload()
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d, err)
		}
		var doc struct{ Subject *ocispec.Descriptor }
		if err := json.Unmarshal(body, &doc); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d, err)
		}
		if doc.Subject != nil {
			about[doc.Subject.Digest] = append(about[doc.Subject.Digest], d)
		}
	}
	return about, nil
}

// RemoveManifest removes one from its repository, so that a Sweep takes what only it needed.
// With dry, only the ledger forgets it.
func (l *Ledger) RemoveManifest(ctx context.Context, m Untagged, dry bool) error {
	if !dry {
		if err := absent(storage.NewVacuum(ctx, l.driver).RemoveManifest(m.Repository, m.Digest, m.tags)); err != nil {
			return fmt.Errorf("remove manifest %s@%s: %w", m.Repository, m.Digest, err)
		}
	}
	l.Drop(m.Repository, m.Digest)
	return nil
}

// Idle lists the blobs that a Sweep of that grace would remove, sorted.
func (l *Ledger) Idle(grace time.Duration) []digest.Digest {
	list := l.candidates(grace)
	slices.Sort(list)
	return list
}
