package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	helper "github.com/docker/docker-credential-helpers/client"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/net/publicsuffix"
)

// upstream is the registry that this one is a cache of, as far as the cache of
// distribution does not ask it: for referrers.
type upstream struct {
	base        *url.URL
	client      *http.Client
	credentials func() (user, password string, err error)
}

func newUpstream(c configuration.Proxy) (*upstream, error) {
	base, err := url.Parse(strings.TrimSuffix(c.RemoteURL, "/"))
	if err != nil {
		return nil, fmt.Errorf("proxy.remoteurl: %w", err)
	}
	u := &upstream{base: base, client: &http.Client{Timeout: 30 * time.Second, CheckRedirect: follow}}
	u.credentials = func() (string, string, error) { return c.Username, c.Password, nil }
	if c.Exec != nil {
		program := helper.NewShellProgramFunc(c.Exec.Command)
		u.credentials = func() (string, string, error) {
			got, err := helper.Get(program, base.Host)
			if err != nil {
				return "", "", fmt.Errorf("proxy.exec: %w", err)
			}
			return got.Username, got.Secret, nil
		}
	}
	return u, nil
}

// follow lets a redirect lead anywhere but from https to plain http, and takes
// secrets to the same server only.
func follow(req *http.Request, via []*http.Request) error {
	first, last := via[0].URL, via[len(via)-1].URL
	switch {
	case len(via) >= 10:
		return errors.New("stopped after 10 redirects")
	case last.Scheme == "https" && req.URL.Scheme != "https":
		return fmt.Errorf("refusing to follow a redirect from https to %s", req.URL.Scheme)
	case req.URL.Scheme != first.Scheme || req.URL.Host != first.Host:
		req.Header.Del("Authorization")
	}
	return nil
}

// statusError is an answer that is not a list of referrers.
type statusError struct {
	status     int
	retryAfter string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the registry behind this cache answers %d %s", e.status, http.StatusText(e.status))
}

// Bounds of what an upstream's referrers may have in all.
const (
	maxUpstream      = 16 << 20
	maxUpstreamPages = 100
)

// referrers lists all of them. An upstream without referrers is a statusError of 404.
func (u *upstream) referrers(ctx context.Context, name string, subject digest.Digest) (list []ocispec.Descriptor, err error) {
	at := u.base.JoinPath("v2", name, "referrers", subject.String())
	left := maxUpstream
	for range maxUpstreamPages {
		resp, err := u.get(ctx, at, name)
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(io.LimitReader(resp.Body, int64(left)+1))
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		if left -= len(b); left < 0 {
			return nil, fmt.Errorf("the registry behind this cache lists more than %d MB of referrers", maxUpstream>>20)
		}
		if resp.StatusCode != http.StatusOK {
			return nil, &statusError{resp.StatusCode, resp.Header.Get("Retry-After")}
		}
		more, err := descriptors(b)
		if err != nil {
			// Some registry's page for people: it does not know the address.
			return nil, &statusError{status: http.StatusNotFound}
		}
		list = append(list, more...)
		m := nextPage.FindStringSubmatch(resp.Header.Get("Link"))
		if m == nil {
			return list, nil
		}
		next, err := at.Parse(m[1])
		if err != nil || next.Host != u.base.Host || next.Scheme != u.base.Scheme {
			return nil, fmt.Errorf("the registry behind this cache goes on elsewhere: %q", m[1])
		}
		at = next
	}
	return nil, fmt.Errorf("the registry behind this cache lists more than %d pages of referrers", maxUpstreamPages)
}

var nextPage = regexp.MustCompile(`<([^>]*)>; *rel="?next"?`)

// descriptors reads an index; what has no valid digest is left out.
func descriptors(b []byte) (list []ocispec.Descriptor, err error) {
	var doc ocispec.Index
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, err
	}
	if doc.SchemaVersion != 2 || doc.Manifests == nil {
		return nil, errors.New("no index")
	}
	for _, d := range doc.Manifests {
		if d.Digest.Validate() == nil {
			list = append(list, d)
		}
	}
	return list, nil
}

// get asks, and once more with what the upstream wants to know.
func (u *upstream) get(ctx context.Context, at *url.URL, name string) (*http.Response, error) {
	ask := func(authorization string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Accept", ocispec.MediaTypeImageIndex)
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		return u.client.Do(req)
	}
	resp, err := ask("")
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	authorization, err := u.authorize(ctx, resp.Header.Values("WWW-Authenticate"), name)
	if err != nil || authorization == "" {
		return resp, err
	}
	resp.Body.Close()
	return ask(authorization)
}

var parameter = regexp.MustCompile(`([a-z]+)="([^"]*)"`)

// authorize answers a challenge, "" if it cannot be answered.
func (u *upstream) authorize(ctx context.Context, challenges []string, name string) (string, error) {
	user, password, err := u.credentials()
	if err != nil {
		return "", err
	}
	for _, c := range challenges {
		scheme, rest, _ := strings.Cut(c, " ")
		switch {
		case strings.EqualFold(scheme, "basic") && user != "":
			req := http.Request{Header: http.Header{}}
			req.SetBasicAuth(user, password)
			return req.Header.Get("Authorization"), nil
		case strings.EqualFold(scheme, "bearer"):
			p := map[string]string{}
			for _, m := range parameter.FindAllStringSubmatch(rest, -1) {
				p[m[1]] = m[2]
			}
			return u.token(ctx, p["realm"], p["service"], name, user, password)
		}
	}
	return "", nil
}

// token asks for one that is good for pulls. The password goes to the upstream's own domain only.
func (u *upstream) token(ctx context.Context, realm, service, name, user, password string) (string, error) {
	at, err := url.Parse(realm)
	if err != nil || at.Host == "" {
		return "", nil //nolint:nilerr // there is nobody to ask
	}
	q := at.Query()
	if service != "" {
		q.Set("service", service)
	}
	q.Set("scope", "repository:"+name+":pull")
	at.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return "", err
	}
	if user != "" {
		if at.Scheme != "https" && (at.Scheme != "http" || u.base.Scheme != "http") {
			return "", fmt.Errorf("the registry behind this cache asks for the password at %s, which is not https", at.Host)
		}
		if !sameDomain(u.base, at) {
			return "", fmt.Errorf("the registry behind this cache asks for the password on behalf of %s, which is not its own domain", at.Host)
		}
		req.SetBasicAuth(user, password)
	}
	resp, err := u.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var doc struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	if resp.StatusCode != http.StatusOK || json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&doc) != nil {
		return "", nil
	}
	if doc.Token == "" {
		doc.Token = doc.AccessToken
	}
	if doc.Token == "" {
		return "", nil
	}
	return "Bearer " + doc.Token, nil
}

func sameDomain(a, b *url.URL) bool {
	if strings.EqualFold(a.Host, b.Host) {
		return true
	}
	one, err := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(a.Hostname()))
	two, err2 := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(b.Hostname()))
	return err == nil && err2 == nil && one == two
}
