package transfer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/wherry-engine/wherry/internal/transfer/agent"
	"github.com/wherry-engine/wherry/internal/transfer/failure"
)

// Blobs of up to whole bytes are sent in one request, others in chunks: what a
// cut costs is one chunk.
const (
	whole = 8 << 20
	chunk = 32 << 20
)

func bodyOf(b []byte) func() (io.Reader, error) {
	return func() (io.Reader, error) { return bytes.NewReader(b), nil }
}

// begin starts an upload, or has the registry take the blob from another of its
// repositories, whose name it then returns.
func (p *push) begin(ctx context.Context, d digest.Digest, in []string) (location *url.URL, from string, err error) {
	at := p.to.url("blobs", "uploads")
	at.Path += "/"
	tried := 0
	for _, from := range in {
		if from == reference.Path(p.named) || tried == 3 {
			continue
		}
		tried++
		p.to.login.Need("repository:" + from + ":pull")
		u := *at
		u.RawQuery = url.Values{"mount": {d.String()}, "from": {from}}.Encode()
		resp, err := p.to.do(ctx, call{method: http.MethodPost, url: &u, body: bodyOf(nil)})
		if err != nil {
			return nil, "", err
		}
		drain(resp)
		if resp.StatusCode == http.StatusCreated {
			return nil, from, nil
		}
		if resp.StatusCode == http.StatusAccepted { // it does not mount, or not that one, and has begun an upload
			location, err = p.location(resp)
			return location, "", err
		}
	}
	resp, err := p.to.do(ctx, call{method: http.MethodPost, url: at, body: bodyOf(nil)})
	if err != nil {
		return nil, "", err
	}
	if resp.StatusCode != http.StatusAccepted {
		return nil, "", failure.Read(resp)
	}
	drain(resp)
	location, err = p.location(resp)
	return location, "", err
}

// location reads where an upload goes on. It may be another server, which then
// gets the blob and no credentials, but not one without TLS instead of one with.
func (p *push) location(resp *http.Response) (*url.URL, error) {
	text := resp.Header.Get("Location")
	u, err := resp.Request.URL.Parse(text)
	if err != nil || text == "" {
		return nil, invalid("registry %s: upload without a valid Location: %q", p.to.base.Host, failure.Clean(text))
	}
	if u.Scheme != "https" && u.Scheme != p.to.base.Scheme {
		return nil, invalid("registry %s wants the upload at %s, which is not https", p.to.base.Host, agent.Origin(u))
	}
	return u, nil
}

// feed is what an upload sends.
type feed interface {
	// Next returns what follows the first at bytes, n of them and least or more
	// unless the end comes before, and whether nothing follows these.
	Next(at, least int64) (body func() io.Reader, n int64, last bool, err error)
	// Descriptor is the blob's digest and size; it is known once Next has said last.
	Descriptor() ocispec.Descriptor
}

// send uploads a blob. A chunk that fails is sent again from where the registry
// says it has come to. What cannot be finished is taken back.
func (p *push) send(ctx context.Context, f feed, location *url.URL) (err error) {
	defer func() {
		if err != nil && location != nil {
			p.abandon(ctx, location)
		}
	}()
	body, n, last, err := f.Next(0, 0)
	if err != nil {
		return err
	}
	if last && n <= whole {
		return p.finish(ctx, f.Descriptor().Digest, location, body, n)
	}
	sent, least := int64(0), int64(0)
	for fails := 0; ; {
		at := sent
		resp, err := p.to.do(ctx, call{method: http.MethodPatch, url: location, size: n, body: anew(body),
			header: http.Header{"Content-Type": {"application/octet-stream"}, "Content-Range": {fmt.Sprintf("%d-%d", at, at+n-1)}}})
		if err == nil && (resp.StatusCode == http.StatusAccepted || resp.StatusCode == http.StatusNoContent) {
			drain(resp)
			if location, err = p.location(resp); err != nil {
				return err
			}
			if wants, err := strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 64); err == nil {
				least = max(least, wants)
			}
			if sent, err = p.reached(resp, at+n, at+n); err != nil {
				return err
			}
			if sent > at {
				fails = 0
			} else if fails++; fails > p.to.tries {
				return invalid("registry %s: the upload of a blob does not get beyond %d bytes", p.to.base.Host, at)
			}
		} else {
			if err == nil {
				err = failure.Read(resp)
			}
			if fails++; ctx.Err() != nil || fails > p.to.tries {
				return err
			}
			if serr := sleep(ctx, 200*time.Millisecond<<min(fails, 5)); serr != nil {
				return serr
			}
			state, serr := p.to.do(ctx, call{method: http.MethodGet, url: location})
			if serr != nil {
				continue
			}
			drain(state)
			if state.StatusCode != http.StatusNoContent && state.StatusCode != http.StatusOK {
				return err // it has forgotten the upload
			}
			if next, lerr := p.location(state); lerr == nil {
				location = next
			}
			if sent, serr = p.reached(state, 0, at+n); serr != nil {
				return serr
			}
		}
		if last && sent == at+n {
			break
		}
		if body, n, last, err = f.Next(sent, least); err != nil {
			return err
		}
	}
	return p.finish(ctx, f.Descriptor().Digest, location, func() io.Reader { return http.NoBody }, 0)
}

// abandon tells the registry that an upload will not go on; one that does not
// hear it forgets the upload by itself some day.
func (p *push) abandon(ctx context.Context, location *url.URL) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), quick)
	defer cancel()
	if resp, err := p.to.do(ctx, call{method: http.MethodDelete, url: location}); err == nil {
		drain(resp)
	}
}

func anew(body func() io.Reader) func() (io.Reader, error) {
	return func() (io.Reader, error) { return body(), nil }
}

// reached reads from a Range header how much the registry has of a blob.
func (p *push) reached(resp *http.Response, otherwise, size int64) (int64, error) {
	text := resp.Header.Get("Range")
	if text == "" {
		return otherwise, nil
	}
	_, last, ok := strings.Cut(strings.TrimPrefix(text, "bytes="), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || err != nil || n < 0 || n >= size {
		return 0, invalid("registry %s: invalid Range %q", p.to.base.Host, failure.Clean(text))
	}
	if n == 0 {
		return 0, nil // how an empty upload is written, as is one of one byte, which is sent again
	}
	return n + 1, nil
}

// finish closes the upload, with what is left to be sent.
func (p *push) finish(ctx context.Context, d digest.Digest, location *url.URL, body func() io.Reader, left int64) error {
	u := *location
	q := u.Query()
	q.Set("digest", d.String())
	u.RawQuery = q.Encode()
	resp, err := p.to.do(ctx, call{method: http.MethodPut, url: &u, size: left, body: anew(body), header: http.Header{"Content-Type": {"application/octet-stream"}}})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusOK {
		return failure.Read(resp)
	}
	drain(resp)
	return nil
}

// stored is a blob that lies here; report is told how far it is.
type stored struct {
	d      ocispec.Descriptor
	ra     io.ReaderAt
	report func(int64)
}

func (b *stored) Descriptor() ocispec.Descriptor { return b.d }

func (b *stored) Next(at, least int64) (func() io.Reader, int64, bool, error) {
	n := b.d.Size - at
	if b.d.Size > whole {
		n = min(max(chunk, least), n)
	}
	return func() io.Reader {
		if n == 0 {
			return http.NoBody // not a body of an unknown length
		}
		return &meter{r: io.NewSectionReader(b.ra, at, n), at: at, report: b.report}
	}, n, at+n == b.d.Size, nil
}

// meter reports how much of a blob was sent.
type meter struct {
	r      io.Reader
	at     int64
	report func(int64)
}

func (m *meter) Read(b []byte) (int, error) {
	n, err := m.r.Read(b)
	if n > 0 {
		m.at += int64(n)
		m.report(m.at)
	}
	return n, err
}
