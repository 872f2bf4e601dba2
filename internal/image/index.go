package image

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/image/tree"
)

// Labels of image records, so that the index needs no blob to be read.
const (
	labelID       = "wherry.image.id"
	labelManifest = "wherry.image.manifest"
	labelParent   = "wherry.image.parent"
)

// danglingPrefix begins the names of images without a name. It has no slash,
// which every canonical reference has.
const danglingPrefix = "dangling@"

// entry is one image id with its records; it is replaced, never changed.
type entry struct {
	id      digest.Digest
	records []*record // sorted by name
	details atomic.Pointer[details]
	img     atomic.Pointer[Image]
}

// index is the image table in memory. Store.mu guards it.
type index struct {
	names map[string]*record
	ids   map[digest.Digest]*entry
	raw   map[string]*entry // answers to reference texts; emptied at each change
}

func newIndex() *index {
	return &index{names: map[string]*record{}, ids: map[digest.Digest]*entry{}, raw: map[string]*entry{}}
}

func (x *index) put(r *record) {
	x.drop(r.name)
	x.names[r.name] = r
	old := x.ids[r.id]
	e := &entry{id: r.id}
	if old != nil {
		e.records = append(e.records, old.records...)
		e.details.Store(old.details.Load())
	}
	e.records = append(e.records, r)
	sort.Slice(e.records, func(i, j int) bool { return e.records[i].name < e.records[j].name })
	x.ids[r.id] = e
	clear(x.raw)
}

func (x *index) drop(name string) {
	r := x.names[name]
	if r == nil {
		return
	}
	delete(x.names, name)
	clear(x.raw)
	old := x.ids[r.id]
	if len(old.records) == 1 {
		delete(x.ids, r.id)
		return
	}
	e := &entry{id: r.id, records: slices.DeleteFunc(slices.Clone(old.records), func(o *record) bool { return o == r })}
	e.details.Store(old.details.Load())
	x.ids[r.id] = e
}

// prefix finds the one id that begins with the hexadecimal digits.
func (x *index) prefix(hex string) (*entry, error) {
	var found *entry
	for id, e := range x.ids {
		if strings.HasPrefix(id.Encoded(), hex) {
			if found != nil {
				return nil, errdefs.ErrNotFound.WithMessage("ambiguous reference: " + hex + " matches several images")
			}
			found = e
		}
	}
	return found, nil
}

// table is the image table: on disk and in memory.
type table struct {
	content *content.Store
	choose  func(context.Context, ocispec.Descriptor) (*tree.Candidate, error)

	change sync.Mutex // held by whoever changes the table
	mu     sync.RWMutex
	index  *index
}

// fromRow turns a row of the table into a record.
func (s *table) fromRow(ctx context.Context, row images.Image) (*record, error) {
	r := &record{name: row.Name, target: row.Target, updated: row.UpdatedAt,
		id: digest.Digest(row.Labels[labelID]), manifest: digest.Digest(row.Labels[labelManifest]), parent: digest.Digest(row.Labels[labelParent])}
	if !strings.HasPrefix(row.Name, danglingPrefix) {
		ref, err := reference.ParseNormalizedNamed(row.Name)
		if err != nil {
			return nil, fmt.Errorf("image table: %q: %w", row.Name, err)
		}
		r.ref = ref
	}
	if r.id == "" || r.manifest == "" {
		c, err := s.choose(ctx, row.Target)
		if err != nil {
			return nil, fmt.Errorf("image table: %q: %w", row.Name, err)
		}
		r.id, r.manifest = c.Manifest.Config.Digest, c.Desc.Digest
	}
	return r, nil
}

func (r *record) row() images.Image {
	labels := map[string]string{labelID: r.id.String(), labelManifest: r.manifest.String()}
	if r.parent != "" {
		labels[labelParent] = r.parent.String()
	}
	return images.Image{Name: r.name, Target: r.target, Labels: labels}
}

// commit applies drops and then puts to the table in one synced transaction,
// and to the index. An image that loses its last name to a put becomes
// dangling; a dangling one that gets a name stops being it. It returns the ids
// that became dangling. The caller holds s.change.
func (s *table) commit(ctx context.Context, drops []string, puts []*record) ([]digest.Digest, error) {
	now := time.Now().UTC()
	s.mu.RLock()
	left := map[digest.Digest]int{} // named records of the ids that lose one
	touched := map[digest.Digest]*record{}
	final := map[string]*record{}
	for _, p := range puts {
		p.updated = now
		final[p.name] = p
	}
	for name := range final {
		if old := s.index.names[name]; old != nil && old.id != final[name].id {
			touched[old.id] = old
		}
	}
	for id := range touched {
		for _, r := range s.index.ids[id].records {
			if n := final[r.name]; (n == nil || n.id == id) && !slices.Contains(drops, r.name) {
				left[id]++
			}
		}
		for _, p := range final {
			if p.id == id && s.index.names[p.name] == nil {
				left[id]++
			}
		}
	}
	var orphans []digest.Digest
	for id, old := range touched {
		if left[id] == 0 {
			orphans = append(orphans, id)
			d := *old
			d.name, d.ref, d.updated = danglingPrefix+old.target.Digest.String(), nil, now
			final[d.name] = &d
		}
	}
	drops = slices.Clone(drops)
	for _, p := range final {
		if e := s.index.ids[p.id]; e != nil && p.ref != nil {
			for _, r := range e.records {
				if r.ref == nil {
					drops = append(drops, r.name)
				}
			}
		}
	}
	known := map[string]bool{}
	for name := range final {
		known[name] = s.index.names[name] != nil
	}
	s.mu.RUnlock()

	err := s.content.Update(ctx, func(ctx context.Context) error {
		table := s.content.Images()
		for _, name := range drops {
			if err := table.Delete(ctx, name); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
		}
		for name, r := range final {
			var err error
			if known[name] && !slices.Contains(drops, name) {
				_, err = table.Update(ctx, r.row())
			} else {
				_, err = table.Create(ctx, r.row())
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("image table: %w", err)
	}
	s.mu.Lock()
	for _, name := range drops {
		s.index.drop(name)
	}
	for _, r := range final {
		s.index.put(r)
	}
	s.mu.Unlock()
	return orphans, nil
}

// readTable fills the index from the table.
func (s *table) readTable(ctx context.Context) error {
	rows, err := s.content.Images().List(content.With(ctx))
	if err != nil {
		return fmt.Errorf("image table: %w", err)
	}
	for _, row := range rows {
		r, err := s.fromRow(ctx, row)
		if err != nil {
			return err
		}
		s.index.put(r)
	}
	return nil
}
