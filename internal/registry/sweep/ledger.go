// Package sweep owns the online collection of wherry-registry: which manifests
// keep which blobs, counted while the server answers, and the removal of blobs
// that nothing keeps any more.
//
// A blob goes only when no manifest of any repository has referred to it, and
// nobody was told of it, for the whole time of grace: a client that was told
// that a blob is there, or that has uploaded one, has that long to push the
// manifest that needs it. Who asks and is refused keeps nothing. What is kept is learned from the storage at each
// start (Load) and followed from then on, so no other process may write to the
// same storage meanwhile.
package sweep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// manifest is one manifest in one repository.
type manifest struct {
	repository string
	digest     digest.Digest
}

// Ledger is safe for use by several goroutines.
type Ledger struct {
	registry distribution.Namespace
	driver   driver.StorageDriver

	mu      sync.Mutex
	gone    *sync.Cond                   // signalled when a removal has ended
	keeps   map[manifest][]digest.Digest // itself and what it refers to
	refs    map[digest.Digest]int        // manifests that keep the blob
	links   map[digest.Digest]map[string]struct{}
	idle    map[digest.Digest]time.Time // blobs without refs: last time that they mattered
	pins    map[digest.Digest]int       // requests under way that need the blob
	going   map[digest.Digest]bool      // being removed right now
	dropped map[manifest]bool           // deleted while Load reads; nil once it has
}

// New returns the ledger of a storage; it keeps everything until Load was called.
func New(registry distribution.Namespace, d driver.StorageDriver) *Ledger {
	l := &Ledger{registry: registry, driver: d, keeps: map[manifest][]digest.Digest{}, refs: map[digest.Digest]int{},
		links: map[digest.Digest]map[string]struct{}{}, idle: map[digest.Digest]time.Time{}, pins: map[digest.Digest]int{},
		going: map[digest.Digest]bool{}, dropped: map[manifest]bool{}}
	l.gone = sync.NewCond(&l.mu)
	return l
}

// Hold keeps blobs, whether they are there or not, until release is called; and
// for the time of grace after that, if told was true: a client knows of them
// now. A removal under way is waited for.
func (l *Ledger) Hold(list ...digest.Digest) (release func(told bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range list {
		for l.going[d] {
			l.gone.Wait()
		}
		l.pins[d]++
	}
	return func(told bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, d := range list {
			if l.pins[d]--; l.pins[d] == 0 {
				delete(l.pins, d)
			}
			if told {
				l.touch(d)
			}
		}
	}
}

// touch begins a blob's time of grace anew. The caller holds l.mu.
func (l *Ledger) touch(d digest.Digest) {
	if _, ok := l.idle[d]; ok || l.dropped != nil {
		l.idle[d] = time.Now()
	}
}

// Put notes that a manifest is in a repository and what it refers to.
func (l *Ledger) Put(ctx context.Context, repository string, d digest.Digest, refers []digest.Digest) {
	list := append(l.resolve(ctx, repository, refers), d)
	l.mu.Lock()
	defer l.mu.Unlock()
	m := manifest{repository, d}
	delete(l.dropped, m)
	l.put(m, list)
}

func (l *Ledger) put(m manifest, list []digest.Digest) {
	if _, known := l.keeps[m]; known {
		return // the same digest keeps the same blobs
	}
	l.keeps[m] = list
	for _, d := range list {
		l.refs[d]++
		delete(l.idle, d)
	}
}

// Drop notes that a manifest was deleted from a repository.
func (l *Ledger) Drop(repository string, d digest.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := manifest{repository, d}
	if l.dropped != nil {
		l.dropped[m] = true
	}
	for _, d := range l.keeps[m] {
		if l.refs[d]--; l.refs[d] <= 0 {
			delete(l.refs, d)
			l.idle[d] = time.Now()
		}
	}
	delete(l.keeps, m)
}

// Keeps tells whether a manifest refers to a blob.
func (l *Ledger) Keeps(d digest.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refs[d] > 0
}

// Link notes that a repository has a blob.
func (l *Ledger) Link(repository string, d digest.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.link(repository, d)
	if l.refs[d] == 0 {
		l.idle[d] = time.Now()
	}
}

func (l *Ledger) link(repository string, d digest.Digest) {
	if l.links[d] == nil {
		l.links[d] = map[string]struct{}{}
	}
	l.links[d][repository] = struct{}{}
}

// Unlink notes that a blob was deleted from a repository.
func (l *Ledger) Unlink(repository string, d digest.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if delete(l.links[d], repository); len(l.links[d]) == 0 {
		delete(l.links, d)
	}
}

// resolve turns digests of other algorithms into those that the storage keeps
// the blobs by.
func (l *Ledger) resolve(ctx context.Context, repository string, list []digest.Digest) []digest.Digest {
	out := make([]digest.Digest, 0, len(list)+1)
	for _, d := range list {
		if d.Validate() != nil {
			continue
		}
		out = append(out, d)
		if d.Algorithm() == digest.Canonical {
			continue
		}
		named, err := reference.WithName(repository)
		if err != nil {
			continue
		}
		repo, err := l.registry.Repository(ctx, named)
		if err != nil {
			continue
		}
		if desc, err := repo.Blobs(ctx).Stat(ctx, d); err == nil && desc.Digest != d {
			out = append(out, desc.Digest)
		}
	}
	return out
}

// Load reads what the storage holds, beside requests. After an error, which
// names what could not be read, the ledger goes on keeping everything and Load
// can be called again.
func (l *Ledger) Load(ctx context.Context) error {
	repositories, ok := l.registry.(distribution.RepositoryEnumerator)
	if !ok {
		return errors.New("the storage cannot list its repositories")
	}
	if err := absent(repositories.Enumerate(ctx, func(name string) error { return l.loadRepository(ctx, name) })); err != nil {
		return err
	}
	var all []digest.Digest
	if err := absent(l.registry.Blobs().Enumerate(ctx, func(d digest.Digest) error {
		all = append(all, d)
		return nil
	})); err != nil {
		return fmt.Errorf("list the blobs: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, d := range all {
		l.idle[d] = now
	}
	for d := range l.refs {
		delete(l.idle, d)
	}
	l.dropped = nil
	return nil
}

// absent drops the error that a directory is not there (yet).
func absent(err error) error {
	if errors.As(err, new(driver.PathNotFoundError)) {
		return nil
	}
	return err
}

func (l *Ledger) loadRepository(ctx context.Context, name string) error {
	named, err := reference.WithName(name)
	if err != nil {
		return fmt.Errorf("repository %s: %w", name, err)
	}
	repo, err := l.registry.Repository(ctx, named)
	if err != nil {
		return fmt.Errorf("repository %s: %w", name, err)
	}
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return fmt.Errorf("repository %s: %w", name, err)
	}
	list, ok := manifests.(distribution.ManifestEnumerator)
	if !ok {
		return errors.New("the storage cannot list its manifests")
	}
	err = absent(list.Enumerate(ctx, func(d digest.Digest) error {
		doc, err := manifests.Get(ctx, d)
		if errors.As(err, new(distribution.ErrManifestUnknownRevision)) {
			return nil // deleted meanwhile
		}
		if err != nil {
			return fmt.Errorf("manifest %s@%s: %w", name, d, err)
		}
		var refers []digest.Digest
		for _, r := range doc.References() {
			refers = append(refers, r.Digest)
		}
		keeps := append(l.resolve(ctx, name, refers), d)
		l.mu.Lock()
		defer l.mu.Unlock()
		if m := (manifest{name, d}); !l.dropped[m] {
			l.put(m, keeps)
		}
		return nil
	}))
	if err != nil {
		return err
	}
	// The method of the same name lists a repository's links to blobs.
	blobs, ok := repo.Blobs(ctx).(distribution.ManifestEnumerator)
	if !ok {
		return errors.New("the storage cannot list its blobs")
	}
	return absent(blobs.Enumerate(ctx, func(d digest.Digest) error {
		l.mu.Lock()
		l.link(name, d)
		l.mu.Unlock()
		return nil
	}))
}

// Sweep removes the blobs that have been idle for grace, and tells how many.
// An error leaves the rest for the next time.
func (l *Ledger) Sweep(ctx context.Context, grace time.Duration) (removed int, err error) {
	for _, d := range l.candidates(grace) {
		if err := context.Cause(ctx); err != nil {
			return removed, err
		}
		repositories, ok := l.claim(d, grace)
		if !ok {
			continue
		}
		err := l.remove(ctx, d, repositories)
		l.mu.Lock()
		delete(l.going, d)
		if err == nil {
			delete(l.idle, d)
			delete(l.links, d)
			removed++
		} else {
			l.idle[d] = time.Now()
		}
		l.gone.Broadcast()
		l.mu.Unlock()
		if err != nil {
			return removed, fmt.Errorf("remove blob %s: %w", d, err)
		}
	}
	return removed, nil
}

func (l *Ledger) candidates(grace time.Duration) (list []digest.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dropped != nil {
		return nil // not everything that keeps a blob is known
	}
	for d, since := range l.idle {
		if time.Since(since) >= grace {
			list = append(list, d)
		}
	}
	return list
}

// claim marks a blob as being removed, unless somebody needs it by now.
func (l *Ledger) claim(d digest.Digest, grace time.Duration) (repositories []string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	since, idle := l.idle[d]
	if !idle || time.Since(since) < grace || l.pins[d] > 0 || l.refs[d] > 0 {
		return nil, false
	}
	l.going[d] = true
	for name := range l.links[d] {
		repositories = append(repositories, name)
	}
	return repositories, true
}

// remove deletes the links first: a blob without links is found by the next Load.
func (l *Ledger) remove(ctx context.Context, d digest.Digest, repositories []string) error {
	v := storage.NewVacuum(ctx, l.driver)
	for _, name := range repositories {
		if err := absent(v.RemoveLayer(name, d)); err != nil {
			return err
		}
	}
	slog.Info("blob removed", "digest", d.String(), "repositories", len(repositories))
	return absent(v.RemoveBlob(d.String()))
}
