package content

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// resumePrefix begins the names of leases of work that can be taken up again.
const resumePrefix = "resume-"

// ResumeFor is how long unfinished work is kept for its next try.
const ResumeFor = 7 * 24 * time.Hour

// resumable counts who works under which resumable lease.
type resumable struct {
	mu     sync.Mutex
	active map[string]int
	drop   map[string]bool // somebody finished for good
}

// Resume is Lease for work that may be cut off: what was written under that
// name, whole blobs and parts of them, is there again at the next try, also in
// another process. end(true) keeps it for that; end(false) lets go, once
// nobody else works under the name.
func (s *Store) Resume(ctx context.Context, name string) (_ context.Context, end func(keep bool), err error) {
	ctx, name = With(ctx), resumePrefix+name
	s.resume.mu.Lock()
	defer s.resume.mu.Unlock()
	if _, err := s.leases.Create(ctx, leases.WithID(name)); err != nil && !errdefs.IsAlreadyExists(err) {
		return nil, nil, err
	}
	if s.resume.active == nil {
		s.resume.active, s.resume.drop = map[string]int{}, map[string]bool{}
	}
	s.resume.active[name]++
	return leases.WithLease(ctx, name), func(keep bool) {
		s.resume.mu.Lock()
		defer s.resume.mu.Unlock()
		s.resume.drop[name] = s.resume.drop[name] || !keep
		if s.resume.active[name]--; s.resume.active[name] > 0 {
			return
		}
		if s.resume.drop[name] {
			// An error leaves the lease to Forget.
			s.leases.Delete(context.WithoutCancel(ctx), leases.Lease{ID: name}) //nolint:errcheck // see above
		}
		delete(s.resume.active, name)
		delete(s.resume.drop, name)
	}, nil
}

// Forget lets go of unfinished work that was begun before a moment and that
// nobody is at; the next collection removes what it wrote.
func (s *Store) Forget(ctx context.Context, before time.Time) error {
	ctx = With(ctx)
	list, err := s.leases.List(ctx)
	if err != nil {
		return err
	}
	s.resume.mu.Lock()
	defer s.resume.mu.Unlock()
	for _, l := range list {
		if !strings.HasPrefix(l.ID, resumePrefix) || s.resume.active[l.ID] > 0 || l.CreatedAt.After(before) {
			continue
		}
		if err := s.leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// reclaim gives the blobs of unfinished work their records that were whole on
// disk when a crash came before the record: they would be collected otherwise.
func (s *Store) reclaim(ctx context.Context) error {
	list, err := s.leases.List(ctx)
	if err != nil {
		return err
	}
	for _, l := range list {
		if !strings.HasPrefix(l.ID, resumePrefix) {
			continue
		}
		held, err := s.leases.ListResources(ctx, l)
		if err != nil {
			return err
		}
		for _, r := range held {
			d := digest.Digest(strings.TrimPrefix(r.ID, partialPrefix))
			if r.Type != "ingests" || d.Validate() != nil {
				continue
			}
			info, err := s.files.Info(ctx, d)
			if err != nil {
				continue // it is not whole
			}
			// What is there already is only held.
			p, err := s.Partial(leases.WithLease(ctx, l.ID), ocispec.Descriptor{Digest: d, Size: info.Size})
			if errdefs.IsAlreadyExists(err) || errdefs.IsUnavailable(err) { // or its next try is at it
				continue
			}
			if err != nil {
				return err
			}
			err = p.w.Commit(ctx, info.Size, d)
			p.w.Close()
			if err != nil && !errdefs.IsAlreadyExists(err) {
				return fmt.Errorf("store %s: %w", d, err)
			}
		}
	}
	return nil
}

// Partial is a blob that is written bit by bit, maybe over several processes.
// It is used by one goroutine.
type Partial struct {
	s    *Store
	w    content.Writer
	ref  string
	desc ocispec.Descriptor
	at   int64
}

// PartialRef names the ingest of a blob's part, as leases know it.
func PartialRef(d digest.Digest) string { return partialPrefix + d.String() }

const partialPrefix = "blob-"

// Partial opens the blob where its last writer stopped. The error is
// errdefs.ErrAlreadyExists when it is whole; the lease in ctx then holds it.
func (s *Store) Partial(ctx context.Context, d ocispec.Descriptor) (*Partial, error) {
	ctx = With(ctx)
	p := &Partial{s: s, ref: PartialRef(d.Digest), desc: d}
	var err error
	// Total, which the descriptor gives, is not compared with what is there.
	if p.w, err = s.blobs.Writer(ctx, content.WithRef(p.ref), content.WithDescriptor(d)); err != nil {
		return nil, err
	}
	st, err := p.w.Status()
	if err != nil {
		p.w.Close()
		return nil, err
	}
	p.at = st.Offset
	return p, nil
}

// Offset is how much of the blob is there.
func (p *Partial) Offset() int64 { return p.at }

func (p *Partial) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	p.at += int64(n)
	return n, err
}

// Restart throws away what was written.
func (p *Partial) Restart() error {
	p.at = 0
	return p.w.Truncate(0)
}

// Commit makes the blob whole, with labels, or throws it away if its digest is another
// than the one asked for; that error is errdefs.ErrInvalidArgument.
func (p *Partial) Commit(ctx context.Context, labels map[string]string) error {
	ctx = With(ctx)
	if got := p.w.Digest(); got != p.desc.Digest {
		if err := p.Restart(); err != nil {
			return err
		}
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("content does not match its digest: expected %s, got %s", p.desc.Digest, got))
	}
	if err := p.w.Commit(ctx, p.at, p.desc.Digest, content.WithLabels(labels)); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("store %s: %w", p.desc.Digest, err)
	}
	return nil
}

// Close lets go of the blob; what was written stays for the next Partial, or
// with discard is removed.
func (p *Partial) Close(ctx context.Context, discard bool) error {
	err := p.w.Close()
	if discard {
		if aerr := p.s.blobs.Abort(With(context.WithoutCancel(ctx)), p.ref); aerr != nil && !errdefs.IsNotFound(aerr) {
			return aerr
		}
	}
	return err
}
