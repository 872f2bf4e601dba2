package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/transfer/agent"
	"github.com/wherry-engine/wherry/internal/transfer/failure"
	"github.com/wherry-engine/wherry/internal/transfer/turns"
)

// stage is where a blob's download stands.
type stage int

const (
	waiting stage = iota
	downloading
	verifying
)

// observer is told of a download's progress; retry is how long it pauses
// before the next try, or 0.
type observer func(s stage, done int64, retry time.Duration)

// flight is one blob on its way, for all pulls that want it. It ends early
// only when nobody wants it any more.
type flight struct {
	done   chan struct{}
	err    error // once done is closed
	from   []*remote
	size   int64 // that its manifest says
	cancel context.CancelFunc

	mu       sync.Mutex
	wanted   int
	watchers map[int]observer
	next     int
}

func (f *flight) tell(s stage, done int64, retry time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.watchers {
		w(s, done, retry)
	}
}

// fetch makes sure that a blob is in the store and held by the lease in ctx. A
// blob that another pull fetches already is waited for.
func (c *Client) fetch(ctx context.Context, named reference.Named, from []*remote, d ocispec.Descriptor, watch observer) error {
	if d.Digest.Algorithm() != digest.Canonical {
		return invalid("unsupported digest algorithm %s", d.Digest.Algorithm())
	}
	// Hold first, so that it stays whoever fetches it, and a part of it too.
	for _, r := range []leases.Resource{{ID: d.Digest.String(), Type: "content"}, {ID: content.PartialRef(d.Digest), Type: "ingests"}} {
		if err := c.blobs.Hold(ctx, r); err != nil {
			return err
		}
	}
	for {
		f, id, ours := c.board(ctx, named, from, d, watch)
		select {
		case <-f.done:
			f.leave(id)
			if f.err != nil && !ours && ctx.Err() == nil && (errors.Is(f.err, context.Canceled) || f.size != d.Size || !slices.EqualFunc(f.from, from, (*remote).same)) {
				continue // the others went away, or gave up: elsewhere, as somebody else, or on a wrong size
			}
			return f.err
		case <-ctx.Done():
			if f.leave(id) {
				<-f.done // the part is written then
			}
			return context.Cause(ctx)
		}
	}
}

// board joins the flight of a blob or begins it, which is ours then.
func (c *Client) board(ctx context.Context, named reference.Named, from []*remote, d ocispec.Descriptor, watch observer) (_ *flight, id int, ours bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.flights[d.Digest]
	if ours = f == nil; ours {
		own, cause := context.WithCancelCause(context.WithoutCancel(ctx))
		cancel := func() { cause(nil) }
		f = &flight{done: make(chan struct{}), from: from, size: d.Size, cancel: cancel, watchers: map[int]observer{}}
		c.flights[d.Digest] = f
		slots := c.set.Load().downloads
		go func() {
			f.err = c.fly(own, f, slots, named, from, d)
			cancel()
			c.mu.Lock()
			delete(c.flights, d.Digest)
			c.mu.Unlock()
			close(f.done)
		}()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wanted++
	f.next++
	f.watchers[f.next] = watch
	return f, f.next, ours
}

// leave ends the flight if nobody else wants it; it tells whether it did.
func (f *flight) leave(id int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watchers, id)
	f.wanted--
	if f.wanted > 0 {
		return false
	}
	f.cancel()
	return true
}

// fly fetches one blob.
func (c *Client) fly(ctx context.Context, f *flight, slots turns.Places, named reference.Named, from []*remote, d ocispec.Descriptor) error {
	leave, err := slots.Enter(ctx, func() { f.tell(waiting, 0, 0) })
	if err != nil {
		return err
	}
	defer leave()
	p, err := c.blobs.Partial(ctx, d)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	err = c.complete(ctx, f, p, named, from, d)
	// A part that did not fit its digest was thrown away already.
	if cerr := p.Close(ctx, err != nil && p.Offset() == 0); err == nil {
		err = cerr
	}
	return err
}

// complete brings the partial blob to its end: from any remote that has it, as
// long as there is progress.
func (c *Client) complete(ctx context.Context, f *flight, p *content.Partial, named reference.Named, from []*remote, d ocispec.Descriptor) error {
	fails, inherited := 0, p.Offset() > 0
	origin := map[string]string{sourceLabel + reference.Domain(named): reference.Path(named)}
	for i := 0; ; {
		r := from[i]
		began := p.Offset()
		err := r.blob(ctx, d, p, i < len(from)-1, func(done int64) { f.tell(downloading, done, 0) })
		if err == nil {
			f.tell(verifying, d.Size, 0)
			if err = p.Commit(ctx, origin); err == nil {
				return nil
			}
			if !errdefs.IsInvalidArgument(err) {
				return err
			}
			if inherited { // what was there from an earlier try may be what is wrong
				inherited = false
				continue
			}
			err = invalid("filesystem layer verification failed for digest %s", d.Digest)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if p.Offset() > began {
			fails = 0
		}
		fails++
		if failure.Temporary(err) && !failure.Told(err) && (!r.mirror || i == len(from)-1 || fails <= 1) && fails < r.tries {
			pause := min(250*time.Millisecond<<fails, 10*time.Second)
			if fails == 1 && p.Offset() > began {
				pause = 50 * time.Millisecond
			}
			if pause >= time.Second {
				f.tell(downloading, p.Offset(), pause)
			}
			if err := sleep(ctx, pause); err != nil {
				return err
			}
			continue
		}
		if i == len(from)-1 {
			return err
		}
		if r.mirror {
			c.skipped(r.endpoint, reference.FamiliarString(named), err)
		}
		i, fails = i+1, 0
	}
}

// blob gets what is missing of a blob. An error leaves what came until then.
func (r *remote) blob(ctx context.Context, d ocispec.Descriptor, p *content.Partial, another bool, report func(int64)) error {
	if p.Offset() == d.Size && d.Size > 0 {
		return nil
	}
	if p.Offset() > d.Size {
		if err := p.Restart(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	header := http.Header{}
	if p.Offset() > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", p.Offset()))
	}
	patience := agent.Idle
	if another {
		patience = mirrorPatience
	}
	watchdog := time.AfterFunc(patience, func() { cancel(agent.ErrIdle) })
	defer watchdog.Stop()
	resp, err := r.do(ctx, call{method: http.MethodGet, url: r.url("blobs", d.Digest.String()), header: header})
	if err != nil {
		if errors.Is(err, agent.ErrIdle) {
			return &failure.Error{Kind: errdefs.ErrInternal, Cause: fmt.Errorf("%s: %w", r.base.Host, agent.ErrIdle), Temporary: true}
		}
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK && p.Offset() > 0:
		if err := p.Restart(); err != nil { // the server knows no ranges
			return err
		}
	case resp.StatusCode == http.StatusOK:
	case resp.StatusCode == http.StatusPartialContent && p.Offset() > 0:
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", p.Offset())) {
			return invalid("blob %s: asked for bytes from %d on, got %q", d.Digest, p.Offset(), failure.Clean(resp.Header.Get("Content-Range")))
		}
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		if err := p.Restart(); err != nil {
			return err
		}
		return &failure.Error{Kind: errdefs.ErrInternal, Cause: fmt.Errorf("blob %s: received unexpected HTTP status: %s", d.Digest, resp.Status), Temporary: true}
	case resp.StatusCode == http.StatusNotFound && len(d.URLs) > 0:
		return invalid("layer %s lies outside of the registry (%s), where it is not fetched from", d.Digest, failure.Clean(d.URLs[0]))
	default:
		return failure.OfBlob(failure.Read(resp), d.Digest.String())
	}
	buf := make([]byte, 256<<10)
	for p.Offset() < d.Size {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			watchdog.Reset(patience)
			if int64(n) > d.Size-p.Offset() {
				return r.tooLong(p, d)
			}
			if _, werr := p.Write(buf[:n]); werr != nil {
				return werr
			}
			report(p.Offset())
		}
		if p.Offset() == d.Size {
			break
		}
		if err != nil {
			return r.broken(ctx, d, p, err)
		}
	}
	if n, _ := io.ReadFull(resp.Body, buf[:1]); n > 0 {
		return r.tooLong(p, d)
	}
	return nil
}

func (r *remote) tooLong(p *content.Partial, d ocispec.Descriptor) error {
	if err := p.Restart(); err != nil {
		return err
	}
	return invalid("blob %s is longer than the %d bytes that its manifest says", d.Digest, d.Size)
}

// broken words the end of a body before its time.
func (r *remote) broken(ctx context.Context, d ocispec.Descriptor, p *content.Partial, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &failure.Error{Kind: errdefs.ErrInternal, Temporary: true,
		Cause: fmt.Errorf("blob %s from %s: %w after %d of %d bytes", d.Digest, r.base.Host, err, p.Offset(), d.Size)}
}
