package registry

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// before puts a handler before a registry, which answers what it returns false for.
func (s *server) before(h func(http.ResponseWriter, *http.Request) bool) *httptest.Server {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !h(w, r) {
			routes(s.front).ServeHTTP(w, r)
		}
	}))
	s.t.Cleanup(web.Close)
	return web
}

// about pushes an artifact that says something about the subject.
func (s *server) about(name, kind string, subject ocispec.Descriptor) ocispec.Descriptor {
	s.t.Helper()
	config := s.blob(name, []byte(`{}`))
	config.MediaType = ocispec.MediaTypeEmptyJSON
	d, _ := s.manifest(name, "", ocispec.Manifest{Config: config, Subject: &subject, ArtifactType: kind})
	d.ArtifactType = kind
	return d
}

// referrers asks for them, page by page.
func (s *server) referrers(name string, subject digest.Digest, query string) (list []string) {
	s.t.Helper()
	at := s.url + "/v2/" + name + "/referrers/" + subject.String() + query
	for {
		r := s.want(s.do("GET", at, nil), 200)
		if r.Header.Get("Content-Type") != ocispec.MediaTypeImageIndex {
			s.t.Errorf("Content-Type %q", r.Header.Get("Content-Type"))
		}
		var doc ocispec.Index
		if err := json.Unmarshal(r.body, &doc); err != nil {
			s.t.Fatal(err)
		}
		for _, d := range doc.Manifests {
			list = append(list, d.Digest.String()+" "+d.ArtifactType)
		}
		m := nextPage.FindStringSubmatch(r.Header.Get("Link"))
		if m == nil {
			return list
		}
		at = s.url + m[1]
	}
}

func line(d ocispec.Descriptor) string { return d.Digest.String() + " " + d.ArtifactType }

func sorted(list ...string) []string {
	slices.Sort(list)
	return list
}

// TestReferrersOfCache: what another registry knows about an image is known
// through its cache too, also later when that one is away.
func TestReferrersOfCache(t *testing.T) {
	origin := serve(t, Options{Delete: true})
	m := origin.image("x/y", "v1", "content")
	lonely := origin.image("x/y", "v2", "nothing is said about it")
	sbom, signature := origin.about("x/y", "application/sbom", m), origin.about("x/y", "application/signature", m)
	for _, prefix := range []string{"a", "b", "c"} { // they do not fit into one page
		origin.about("big", "application/big", ocispec.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size,
			Annotations: map[string]string{prefix: strings.Repeat("x", 1<<20)}})
	}
	var away atomic.Bool
	var status atomic.Int64
	web := origin.before(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case away.Load():
			w.WriteHeader(http.StatusServiceUnavailable)
		case status.Load() != 0 && strings.Contains(r.URL.Path, "/referrers/"):
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(int(status.Load()))
		default:
			return false
		}
		return true
	})
	cache := serve(t, Options{Proxy: web.URL})
	if got := cache.referrers("x/y", m.Digest, ""); !slices.Equal(got, sorted(line(sbom), line(signature))) {
		t.Errorf("through the cache: %v", got)
	}
	if got := cache.referrers("x/y", m.Digest, "?artifactType=application/sbom"); !slices.Equal(got, []string{line(sbom)}) {
		t.Errorf("of one kind: %v", got)
	}
	if r := cache.want(cache.do("GET", "/v2/x/y/manifests/"+signature.Digest.String(), nil), 200); digest.FromBytes(r.body) != signature.Digest {
		t.Error("the signature itself is another through the cache")
	}
	if got, want := cache.referrers("big", m.Digest, ""), origin.referrers("big", m.Digest, ""); len(got) != 3 || !slices.Equal(got, want) {
		t.Errorf("in pages: %d of %d", len(got), len(want))
	}
	for _, at := range []string{"x/y/referrers/" + lonely.Digest.String(), "nowhere/referrers/" + m.Digest.String()} {
		if r := cache.want(cache.do("GET", "/v2/"+at, nil), 200); !strings.Contains(string(r.body), `"manifests":[]`) {
			t.Errorf("%s: %s", at, r.body)
		}
	}
	// What is new there is new here.
	third := origin.about("x/y", "application/third", m)
	if got := cache.referrers("x/y", m.Digest, ""); !slices.Contains(got, line(third)) {
		t.Errorf("after another was pushed: %v", got)
	}
	origin.want(origin.do("DELETE", "/v2/x/y/manifests/"+third.Digest.String(), nil), 202)
	if got := cache.referrers("x/y", m.Digest, ""); slices.Contains(got, line(third)) {
		t.Errorf("after it was deleted: %v", got)
	}
	// An upstream that wants to be asked later says when; what was known is told.
	status.Store(http.StatusTooManyRequests)
	if got := cache.referrers("x/y", m.Digest, ""); len(got) != 2 {
		t.Errorf("while the upstream is busy: %v", got)
	}
	if r := cache.want(cache.do("GET", "/v2/x/y/referrers/"+lonely.Digest.String(), nil), 429); r.Header.Get("Retry-After") != "7" {
		t.Errorf("Retry-After %q", r.Header.Get("Retry-After"))
	}
	status.Store(0)
	away.Store(true)
	if got := cache.referrers("x/y", m.Digest, ""); !slices.Equal(got, sorted(line(sbom), line(signature))) {
		t.Errorf("while the upstream is away: %v", got)
	}
	// Nothing is not made of an error.
	if r := cache.want(cache.do("GET", "/v2/x/y/referrers/"+lonely.Digest.String(), nil), 502); !strings.Contains(string(r.body), "the registry behind this cache answers 503 Service Unavailable") {
		t.Errorf("%s", r.body)
	}
}

// TestReferrersOfOldUpstream: a registry that does not know the address has
// them under a tag.
func TestReferrersOfOldUpstream(t *testing.T) {
	origin := serve(t, Options{})
	m := origin.image("x", "v1", "content")
	signature := origin.about("x", "application/signature", m)
	index := func(list ...ocispec.Descriptor) []byte {
		b, err := json.Marshal(ocispec.Index{Versioned: versioned, MediaType: ocispec.MediaTypeImageIndex, Manifests: list})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	origin.document("x", "sha256-"+m.Digest.Encoded(), ocispec.MediaTypeImageIndex, index(signature))
	long := digest.SHA512.FromString("content")
	origin.document("x", "sha512-"+long.Encoded()[:64], ocispec.MediaTypeImageIndex, index(signature))
	for name, answer := range map[string]func(w http.ResponseWriter){
		"404": func(w http.ResponseWriter) { w.WriteHeader(404) },
		"a page for people": func(w http.ResponseWriter) {
			fmt.Fprint(w, "<html>Welcome</html>")
		},
		"another document": func(w http.ResponseWriter) { fmt.Fprint(w, `{"schemaVersion":2}`) },
	} {
		web := origin.before(func(w http.ResponseWriter, r *http.Request) bool {
			old := strings.Contains(r.URL.Path, "/referrers/")
			if old {
				answer(w)
			}
			return old
		})
		cache := serve(t, Options{Proxy: web.URL})
		for _, d := range []digest.Digest{m.Digest, long} {
			if got := cache.referrers("x", d, ""); !slices.Equal(got, []string{line(signature)}) {
				t.Errorf("%s: %s: %v", name, d.Algorithm(), got)
			}
		}
		if got := cache.referrers("x", digest.FromString("none"), ""); len(got) != 0 {
			t.Errorf("%s: of nothing: %v", name, got)
		}
	}
}

// TestReferrersCredentials: the upstream is told its password, by itself or for
// a token, and nobody else is.
func TestReferrersCredentials(t *testing.T) {
	subject := digest.FromString("subject")
	one := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":1}]}`, ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, digest.FromString("it"))
	var heard atomic.Value // what another domain was told
	heard.Store("")
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		heard.Store(r.Header.Get("Authorization"))
		fmt.Fprint(w, `{"token":"stolen"}`)
	}))
	t.Cleanup(stranger.Close)
	for name, c := range map[string]struct {
		challenge func(self string) string
		want      string // the header that opens
		status    int
		words     string
	}{
		"basic":               {func(string) string { return `Basic realm="x"` }, "Basic bWU6c2VjcmV0", 200, ""},
		"token":               {func(self string) string { return `Bearer realm="` + self + `/token",service="s"` }, "Bearer for repository:x:pull at s", 200, ""},
		"token of a stranger": {func(string) string { return `Bearer realm="` + stranger.URL + `/token"` }, "Bearer stolen", 502, "asks for the password on behalf of 127.0.0.1:"},
		"what nobody knows":   {func(string) string { return `Negotiate` }, "never", 502, "answers 401 Unauthorized"},
	} {
		t.Run(name, func(t *testing.T) {
			web := httptest.NewServer(nil)
			t.Cleanup(web.Close)
			web.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path == "/token":
					if user, password, _ := r.BasicAuth(); user == "me" && password == "secret" {
						q, _ := url.ParseQuery(r.URL.RawQuery)
						fmt.Fprintf(w, `{"token":"for %s at %s"}`, q.Get("scope"), q.Get("service"))
						return
					}
					w.WriteHeader(http.StatusForbidden)
				case r.Header.Get("Authorization") != c.want:
					w.Header().Set("WWW-Authenticate", c.challenge(web.URL))
					w.WriteHeader(http.StatusUnauthorized)
				case strings.Contains(r.URL.Path, "/referrers/"):
					fmt.Fprint(w, one)
				default:
					w.WriteHeader(http.StatusNotFound)
				}
			})
			cache := serve(t, Options{Proxy: web.URL, ProxyUser: "me", ProxyPassword: "secret"})
			r := cache.want(cache.do("GET", "/v2/x/referrers/"+subject.String(), nil), c.status)
			if !strings.Contains(string(r.body), c.words) {
				t.Errorf("%s", r.body)
			}
			if opened := strings.Contains(string(r.body), digest.FromString("it").String()); opened != (c.status == 200) {
				t.Errorf("%s", r.body)
			}
		})
	}
	if heard := heard.Load().(string); heard != "" {
		t.Errorf("a stranger was told %s", heard)
	}
}

// TestUpstreamSecrets: what a cache knows of its upstream goes to that server
// alone, and never from https to plain http.
func TestUpstreamSecrets(t *testing.T) {
	request := func(to string) *http.Request {
		r := httptest.NewRequest(http.MethodGet, to, nil)
		r.Header.Set("Authorization", "Basic bWU6c2VjcmV0")
		return r
	}
	for _, c := range []struct {
		from, to   string
		goes, told bool
	}{
		{"https://up.example/a", "https://up.example/b", true, true},
		{"https://up.example/a", "https://cdn.up.example/b", true, false},
		{"https://up.example/a", "https://up.example:8443/b", true, false},
		{"https://up.example/a", "http://up.example/b", false, false},
		{"http://up.example/a", "https://up.example/b", true, false},
	} {
		to := request(c.to)
		err := follow(to, []*http.Request{request(c.from)})
		if told := to.Header.Get("Authorization") != ""; (err == nil) != c.goes || err == nil && told != c.told {
			t.Errorf("%s to %s: %v, Authorization %q", c.from, c.to, err, to.Header.Get("Authorization"))
		}
	}
	u, err := newUpstream(configuration.Proxy{RemoteURL: "https://up.example", Username: "me", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	for _, realm := range []string{"http://up.example/token", "http://auth.up.example/token"} {
		if _, err := u.authorize(t.Context(), []string{`Bearer realm="` + realm + `"`}, "x"); err == nil || !strings.Contains(err.Error(), "which is not https") {
			t.Errorf("%s: %v", realm, err)
		}
	}
}
