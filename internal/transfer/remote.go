package transfer

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/image/manifest"
	"github.com/wherry-engine/wherry/internal/transfer/failure"
	"github.com/wherry-engine/wherry/internal/transfer/login"
)

// remote is one repository at one endpoint.
type remote struct {
	*endpoint
	repo  string
	login *login.Login
	agent string
	tries int
}

// same tells whether another asks for the same at the same place, as the same user.
func (r *remote) same(o *remote) bool {
	return r.repo == o.repo && r.creds == o.creds && *r.base == *o.base
}

// accept lists what manifests may be. Schema 1 is not among them: a registry
// that sends it nevertheless is refused by name.
var accept = []string{
	ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, manifest.DockerManifest, manifest.DockerList,
}

// remotes lists the endpoints of a repository for one kind of work.
func (c *Client) remotes(host, path, actions string, creds login.Credentials) ([]*remote, error) {
	set := c.set.Load()
	list, err := set.endpoints(host, creds, actions == "pull")
	if err != nil {
		return nil, err
	}
	var out []*remote
	for _, e := range list {
		r := &remote{endpoint: e, repo: e.repository(path), agent: c.agent, tries: set.MaxAttempts}
		r.login = e.login(c.agent, "repository:"+r.repo+":"+actions)
		out = append(out, r)
	}
	return out, nil
}

// url returns the address of something in the repository.
func (r *remote) url(parts ...string) *url.URL {
	return r.base.JoinPath(append([]string{"v2", r.repo}, parts...)...)
}

// call is one request; body, if any, is made anew for each try.
type call struct {
	method string
	url    *url.URL
	header http.Header
	body   func() (io.Reader, error)
	size   int64
}

// maxLogins is how often one request may ask who we are.
const maxLogins = 2

// maxWait is the longest that a busy registry is waited for.
const maxWait = 20 * time.Second

// do sends a request, logs in where that is asked for, and waits for a busy
// server. Its response may be of any status but those.
func (r *remote) do(ctx context.Context, c call) (*http.Response, error) {
	safe := c.method == http.MethodGet || c.method == http.MethodHead
	for logins, busy := 0, 0; ; {
		resp, used, err := r.once(ctx, c)
		if err != nil {
			return nil, err
		}
		switch {
		case resp.StatusCode == http.StatusUnauthorized && logins < maxLogins && r.owns(resp.Request.URL):
			logins++
			again, err := r.login.Answer(ctx, resp.Header, used)
			if err != nil {
				resp.Body.Close()
				return nil, err
			}
			if again {
				drain(resp)
				continue
			}
		case safe && busy < 3 && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusBadGateway ||
			resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusGatewayTimeout):
			wait, ok := retryAfter(resp.Header, 200*time.Millisecond<<busy)
			busy++
			if !ok {
				return resp, nil
			}
			drain(resp)
			if err := sleep(ctx, wait); err != nil {
				return nil, err
			}
			continue
		}
		return resp, nil
	}
}

func (r *remote) once(ctx context.Context, c call) (*http.Response, string, error) {
	var body io.Reader
	if c.body != nil {
		var err error
		if body, err = c.body(); err != nil {
			return nil, "", err
		}
	}
	req, err := http.NewRequestWithContext(ctx, c.method, c.url.String(), body)
	if err != nil {
		return nil, "", invalid("%v", err)
	}
	for k, v := range c.header {
		req.Header[k] = v
	}
	if c.body != nil {
		req.ContentLength = c.size
	}
	req.Header.Set("User-Agent", r.agent)
	used := ""
	if r.owns(c.url) {
		if used, err = r.login.Authorization(ctx); err != nil {
			return nil, "", err
		}
		if used != "" {
			req.Header.Set("Authorization", used)
		}
	}
	resp, err := r.client.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, used, cause
		}
		return nil, used, failure.NoAnswer(r.base, err)
	}
	return resp, used, nil
}

// drain ends with an answer of which nothing more is wanted. One that does not
// come at once costs its connection.
func drain(resp *http.Response) {
	enough := time.AfterFunc(quick, func() { resp.Body.Close() })
	defer enough.Stop()
	io.Copy(io.Discard, io.LimitReader(resp.Body, failure.MaxBody)) //nolint:errcheck // only so that the connection can be used again
	resp.Body.Close()
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// retryAfter reads the header of that name; not ok means too long to wait.
func retryAfter(h http.Header, otherwise time.Duration) (time.Duration, bool) {
	text := h.Get("Retry-After")
	if text == "" {
		return otherwise, true
	}
	wait := time.Duration(0)
	if n, err := strconv.Atoi(text); err == nil {
		wait = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = time.Until(at)
	}
	return max(wait, 0), wait <= maxWait
}

// fetched is a manifest as a registry sent it.
type fetched struct {
	desc ocispec.Descriptor
	body []byte
	doc  *manifest.Document
}

// manifest gets the manifest or index of a tag or digest. want.Digest, if set,
// is what it must have.
func (r *remote) manifest(ctx context.Context, ref string, want ocispec.Descriptor) (*fetched, error) {
	b, header, err := r.whole(ctx, r.url("manifests", ref), http.Header{"Accept": accept}, manifest.MaxSize, "manifest "+ref)
	if err != nil {
		return nil, err
	}
	f := &fetched{body: b, desc: ocispec.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))}}
	if want.Digest != "" && want.Digest.Algorithm() != digest.Canonical {
		return nil, invalid("unsupported digest algorithm %s", want.Digest.Algorithm())
	}
	if want.Digest != "" && f.desc.Digest != want.Digest {
		return nil, invalid("manifest verification failed for digest %s: the registry sent %s", want.Digest, f.desc.Digest)
	}
	if said := header.Get("Docker-Content-Digest"); said != "" && want.Digest == "" && strings.HasPrefix(said, "sha256:") && said != f.desc.Digest.String() {
		return nil, invalid("manifest verification failed for digest %s: the registry sent %s", failure.Clean(said), f.desc.Digest)
	}
	kind, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	if kind = strings.TrimSpace(kind); want.MediaType != "" {
		kind = want.MediaType
	} else if !manifest.Is(kind) || kind == "" {
		kind = "" // what the document says of itself decides
	}
	if f.doc, err = manifest.Parse(ocispec.Descriptor{MediaType: kind, Digest: f.desc.Digest}, b); err != nil {
		return nil, err
	}
	f.desc.MediaType = f.doc.MediaType
	return f, nil
}

// has asks whether the repository has a manifest or blob; kind is "manifests" or "blobs".
func (r *remote) has(ctx context.Context, kind, ref string) (bool, error) {
	header := http.Header{}
	if kind == "manifests" {
		header["Accept"] = accept
	}
	resp, err := r.do(ctx, call{method: http.MethodHead, url: r.url(kind, ref), header: header})
	if err != nil {
		return false, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		drain(resp)
		return true, nil
	case http.StatusNotFound:
		drain(resp)
		return false, nil
	}
	return false, failure.Read(resp)
}

// small gets a whole blob of at most limit bytes and checks it.
func (r *remote) small(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error) {
	if d.Size > limit {
		return nil, invalid("%s has %d bytes, more than %d", d.Digest, d.Size, limit)
	}
	b, _, err := r.whole(ctx, r.url("blobs", d.Digest.String()), nil, limit, "blob "+d.Digest.String())
	if err != nil {
		return nil, failure.OfBlob(err, d.Digest.String())
	}
	if digest.FromBytes(b) != d.Digest {
		return nil, invalid("content does not match its digest: expected %s, got %s", d.Digest, digest.FromBytes(b))
	}
	return b, nil
}

// firstOf asks the remotes one after the other until one has an answer. What
// mirrors cannot do is told and passed over; the registry's own answer counts.
func (c *Client) firstOf(ctx context.Context, ref string, list []*remote, ask func(context.Context, *remote) error) (used int, err error) {
	for i, r := range list {
		one, done := ctx, func() {}
		if r.mirror && i < len(list)-1 {
			one, done = context.WithTimeoutCause(ctx, mirrorPatience, errSlow)
		}
		err = ask(one, r)
		done()
		canceled := ctx.Err() != nil
		switch {
		case err == nil:
			return i, nil
		case canceled || i == len(list)-1:
			return i, err
		case r.mirror:
			c.skipped(r.endpoint, ref, err)
		case r.fallback && failure.Temporary(err) && !failure.Answered(err):
		default:
			return i, err
		}
	}
	return 0, err
}

// mirrorPatience is how long a mirror may take for a manifest when somebody
// else can be asked.
const mirrorPatience = 10 * time.Second

var errSlow = errors.New("too slow")
