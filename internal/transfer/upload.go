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

// upload sends a blob, or has the registry take it from another of its
// repositories, whose name it then returns.
func (p *push) upload(ctx context.Context, d ocispec.Descriptor, report func(int64)) (from string, err error) {
	at := p.to.url("blobs", "uploads")
	at.Path += "/"
	var location *url.URL
	for _, from := range p.sources(ctx, d) {
		p.to.login.need("repository:" + from + ":pull")
		u := *at
		u.RawQuery = url.Values{"mount": {d.Digest.String()}, "from": {from}}.Encode()
		resp, err := p.to.do(ctx, call{method: http.MethodPost, url: &u, body: bodyOf(nil)})
		if err != nil {
			return "", err
		}
		drain(resp)
		if resp.StatusCode == http.StatusCreated {
			return from, nil
		}
		if resp.StatusCode == http.StatusAccepted {
			if location, err = p.location(resp); err != nil {
				return "", err
			}
			break // it does not mount, or not that one, and has begun an upload
		}
	}
	if location == nil {
		resp, err := p.to.do(ctx, call{method: http.MethodPost, url: at, body: bodyOf(nil)})
		if err != nil {
			return "", err
		}
		if resp.StatusCode != http.StatusAccepted {
			return "", failure.Read(resp)
		}
		drain(resp)
		if location, err = p.location(resp); err != nil {
			return "", err
		}
	}
	return "", p.send(ctx, d, location, report)
}

// sources are other repositories of the registry that have the blob.
func (p *push) sources(ctx context.Context, d ocispec.Descriptor) (list []string) {
	labels, err := p.blobs.Labels(ctx, d.Digest)
	if err != nil || labels[sourceLabel+reference.Domain(p.named)] == "" {
		return nil
	}
	for _, path := range strings.Split(labels[sourceLabel+reference.Domain(p.named)], ",") {
		if path != reference.Path(p.named) && len(list) < 3 {
			list = append(list, path)
		}
	}
	return list
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

// send uploads the blob's content. A chunk that fails is sent again from where
// the registry says it has come to.
func (p *push) send(ctx context.Context, d ocispec.Descriptor, location *url.URL, report func(int64)) error {
	ra, err := p.blobs.Open(ctx, d.Digest)
	if err != nil {
		return err
	}
	defer ra.Close()
	sent := int64(0)
	step := int64(chunk)
	for fails := 0; d.Size > whole && sent < d.Size; {
		n := min(step, d.Size-sent)
		at := sent
		resp, err := p.to.do(ctx, call{method: http.MethodPatch, url: location, size: n,
			header: http.Header{"Content-Type": {"application/octet-stream"}, "Content-Range": {fmt.Sprintf("%d-%d", sent, sent+n-1)}},
			body: func() (io.Reader, error) {
				return &meter{r: io.NewSectionReader(ra, at, n), at: at, report: report}, nil
			}})
		if err == nil && (resp.StatusCode == http.StatusAccepted || resp.StatusCode == http.StatusNoContent) {
			drain(resp)
			if location, err = p.location(resp); err != nil {
				return err
			}
			if least, err := strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 64); err == nil {
				step = max(step, least)
			}
			if sent, err = p.reached(resp, sent+n, d.Size); err != nil {
				return err
			}
			if sent > at {
				fails = 0
				continue
			}
			if fails++; fails > p.to.tries {
				return invalid("registry %s: the upload of %s does not get beyond %d bytes", p.to.base.Host, d.Digest, at)
			}
			continue
		}
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
		if sent, serr = p.reached(state, 0, d.Size); serr != nil {
			return serr
		}
	}
	return p.finish(ctx, d, ra, location, sent, report)
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
func (p *push) finish(ctx context.Context, d ocispec.Descriptor, ra io.ReaderAt, location *url.URL, sent int64, report func(int64)) error {
	u := *location
	q := u.Query()
	q.Set("digest", d.Digest.String())
	u.RawQuery = q.Encode()
	left := d.Size - sent
	resp, err := p.to.do(ctx, call{method: http.MethodPut, url: &u, size: left, header: http.Header{"Content-Type": {"application/octet-stream"}},
		body: func() (io.Reader, error) {
			if left == 0 {
				return http.NoBody, nil
			}
			return &meter{r: io.NewSectionReader(ra, sent, left), at: sent, report: report}, nil
		}})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusOK {
		return failure.Read(resp)
	}
	drain(resp)
	report(d.Size)
	return nil
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
