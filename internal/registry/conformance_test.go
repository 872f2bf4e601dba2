package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// server is a registry for one test.
type server struct {
	t     *testing.T
	front *front
	url   string
	close func()
}

func serve(t *testing.T, o Options) *server {
	t.Helper()
	if o.Data == "" && o.File == "" {
		o.Data = t.TempDir()
	}
	c, err := settings(o)
	if err != nil {
		t.Fatal(err)
	}
	f, app, release, err := open(t.Context(), o, c)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(routes(f))
	end := sync.OnceFunc(func() {
		web.Close()
		app.Shutdown()
		release()
	})
	t.Cleanup(end)
	return &server{t, f, web.URL, end}
}

type response struct {
	*http.Response
	body []byte
}

// do sends a request; at may be a path or an address. Headers come in pairs.
func (s *server) do(method, at string, body []byte, headers ...string) *response {
	s.t.Helper()
	if strings.HasPrefix(at, "/") {
		at = s.url + at
	}
	req, err := http.NewRequest(method, at, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	s.checkError(resp, b)
	return &response{resp, b}
}

// codes are all that the specification knows.
var codes = regexp.MustCompile(`^(BLOB_UNKNOWN|BLOB_UPLOAD_INVALID|BLOB_UPLOAD_UNKNOWN|DIGEST_INVALID|MANIFEST_BLOB_UNKNOWN|MANIFEST_INVALID|MANIFEST_UNKNOWN|NAME_INVALID|NAME_UNKNOWN|SIZE_INVALID|UNAUTHORIZED|DENIED|UNSUPPORTED|TOOMANYREQUESTS)$`)

// checkError: a 4XX body that is JSON has the specification's form and codes.
func (s *server) checkError(resp *http.Response, body []byte) {
	s.t.Helper()
	if resp.StatusCode < 400 || resp.StatusCode > 499 || !json.Valid(body) {
		return
	}
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(body, &doc); err != nil || len(doc.Errors) == 0 {
		s.t.Errorf("%s %s: error body %s", resp.Request.Method, resp.Request.URL, body)
	}
	for _, e := range doc.Errors {
		if !codes.MatchString(e.Code) {
			s.t.Errorf("%s %s: error code %q", resp.Request.Method, resp.Request.URL, e.Code)
		}
	}
}

func (s *server) want(r *response, status int) *response {
	s.t.Helper()
	if r.StatusCode != status {
		s.t.Fatalf("%s %s: %s, want %d: %s", r.Request.Method, r.Request.URL, r.Status, status, r.body)
	}
	return r
}

func (s *server) location(r *response) string {
	s.t.Helper()
	u, err := r.Request.URL.Parse(r.Header.Get("Location"))
	if err != nil || r.Header.Get("Location") == "" {
		s.t.Fatalf("%s %s: Location %q", r.Request.Method, r.Request.URL, r.Header.Get("Location"))
	}
	return u.String()
}

func withDigest(at string, d digest.Digest) string {
	u, _ := url.Parse(at)
	q := u.Query()
	q.Set("digest", d.String())
	u.RawQuery = q.Encode()
	return u.String()
}

const octets = "application/octet-stream"

// blob pushes a blob by POST and PUT.
func (s *server) blob(name string, b []byte) ocispec.Descriptor {
	s.t.Helper()
	d := digest.FromBytes(b)
	at := s.location(s.want(s.do("POST", "/v2/"+name+"/blobs/uploads/", nil), 202))
	s.want(s.do("PUT", withDigest(at, d), b, "Content-Type", octets), 201)
	return ocispec.Descriptor{MediaType: octets, Digest: d, Size: int64(len(b))}
}

// manifest pushes an image under a reference ("" for its digest).
func (s *server) manifest(name, ref string, m ocispec.Manifest) (ocispec.Descriptor, *response) {
	s.t.Helper()
	m.SchemaVersion, m.MediaType = 2, ocispec.MediaTypeImageManifest
	if m.Layers == nil {
		m.Layers = []ocispec.Descriptor{}
	}
	b, err := json.MarshalIndent(m, " ", "   ") // spaces that must stay
	if err != nil {
		s.t.Fatal(err)
	}
	return s.document(name, ref, m.MediaType, b)
}

func (s *server) document(name, ref, mediaType string, b []byte) (ocispec.Descriptor, *response) {
	s.t.Helper()
	d := digest.FromBytes(b)
	if ref == "" {
		ref = d.String()
	}
	r := s.want(s.do("PUT", "/v2/"+name+"/manifests/"+ref, b, "Content-Type", mediaType), 201)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}, r
}

// image pushes an image of one layer with that content.
func (s *server) image(name, ref, content string) ocispec.Descriptor {
	s.t.Helper()
	config := s.blob(name, []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"x":"`+content+`"}`))
	config.MediaType = ocispec.MediaTypeImageConfig
	d, _ := s.manifest(name, ref, ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{s.blob(name, []byte(content))}})
	return d
}

const accept = ocispec.MediaTypeImageManifest + ", " + ocispec.MediaTypeImageIndex

// TestConformance holds wherry-registry to every MUST of the OCI distribution
// specification 1.1 that binds a registry, section by section.
func TestConformance(t *testing.T) {
	t.Run("determining support", func(t *testing.T) {
		s := serve(t, Options{})
		s.want(s.do("GET", "/v2/", nil), 200)
	})
	t.Run("names", names)
	t.Run("algorithms", algorithms)
	t.Run("pull", pulls)
	t.Run("push", pushes)
	t.Run("push in chunks", pushesChunks)
	t.Run("push manifests", pushesManifests)
	t.Run("tags", listsTags)
	t.Run("referrers", listsReferrers)
	t.Run("management", manages)
	t.Run("management disabled", managesNot)
}

func pulls(t *testing.T) {
	s := serve(t, Options{})
	body := []byte("a layer")
	layer := s.blob("a/b_c/d__e/f--g.h", body)
	m := s.image("a/b_c/d__e/f--g.h", "Tag_1.0-x", "a layer")
	at := "/v2/a/b_c/d__e/f--g.h"
	for _, ref := range []string{"Tag_1.0-x", m.Digest.String()} {
		for _, header := range [][]string{{"Accept", accept}, {"Accept", "*/*"}, nil} {
			r := s.want(s.do("GET", at+"/manifests/"+ref, nil, header...), 200)
			if digest.FromBytes(r.body) != m.Digest || r.Header.Get("Docker-Content-Digest") != m.Digest.String() {
				t.Errorf("%s: other content, or digest %q", ref, r.Header.Get("Docker-Content-Digest"))
			}
			if r.Header.Get("Content-Type") != ocispec.MediaTypeImageManifest {
				t.Errorf("%s: Content-Type %q", ref, r.Header.Get("Content-Type"))
			}
		}
		r := s.want(s.do("HEAD", at+"/manifests/"+ref, nil, "Accept", accept), 200)
		if r.Header.Get("Docker-Content-Digest") != m.Digest.String() || r.Header.Get("Content-Length") != strconv.FormatInt(m.Size, 10) {
			t.Errorf("HEAD %s: digest %q, length %q", ref, r.Header.Get("Docker-Content-Digest"), r.Header.Get("Content-Length"))
		}
	}
	r := s.want(s.do("GET", at+"/blobs/"+layer.Digest.String(), nil), 200)
	if !bytes.Equal(r.body, body) || r.Header.Get("Docker-Content-Digest") != layer.Digest.String() {
		t.Errorf("blob: %q, digest %q", r.body, r.Header.Get("Docker-Content-Digest"))
	}
	r = s.want(s.do("HEAD", at+"/blobs/"+layer.Digest.String(), nil), 200)
	if r.Header.Get("Docker-Content-Digest") != layer.Digest.String() || r.Header.Get("Content-Length") != strconv.Itoa(len(body)) {
		t.Errorf("HEAD blob: digest %q, length %q", r.Header.Get("Docker-Content-Digest"), r.Header.Get("Content-Length"))
	}
	r = s.want(s.do("GET", at+"/blobs/"+layer.Digest.String(), nil, "Range", "bytes=2-4"), 206)
	if string(r.body) != string(body[2:5]) {
		t.Errorf("range: %q", r.body)
	}
	s.want(s.do("GET", at+"/blobs/"+layer.Digest.String(), nil, "Range", "bytes=700-"), 416)
	none := digest.FromString("none").String()
	for _, method := range []string{"GET", "HEAD"} {
		for _, path := range []string{at + "/manifests/none", at + "/manifests/" + none, at + "/blobs/" + none, "/v2/nowhere/manifests/none", "/v2/nowhere/blobs/" + none} {
			if r := s.want(s.do(method, path, nil, "Accept", accept), 404); method == "HEAD" && len(r.body) > 0 {
				t.Errorf("HEAD %s has a body", path)
			}
		}
	}
	// A blob is a repository's own.
	s.want(s.do("GET", "/v2/nowhere/blobs/"+layer.Digest.String(), nil), 404)
}

// session matches the UUID in an upload's address.
var session = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

func pushes(t *testing.T) {
	s := serve(t, Options{})
	b := []byte("some bytes")
	d := digest.FromBytes(b)
	r := s.want(s.do("POST", "/v2/x/blobs/uploads/", nil), 202)
	if !session.MatchString(s.location(r)) {
		t.Errorf("no UUID in %s", s.location(r))
	}
	r = s.want(s.do("PUT", withDigest(s.location(r), d), b, "Content-Type", octets), 201)
	if got := s.want(s.do("GET", s.location(r), nil), 200); !bytes.Equal(got.body, b) {
		t.Errorf("Location does not lead to the blob: %q", got.body)
	}
	// By a single POST, or told to go on with PUT.
	b = []byte("in one go")
	d = digest.FromBytes(b)
	r = s.do("POST", "/v2/x/blobs/uploads/?digest="+d.String(), b, "Content-Type", octets)
	if r.StatusCode == 202 {
		r = s.do("PUT", withDigest(s.location(r), d), b, "Content-Type", octets)
	}
	s.want(r, 201)
	s.want(s.do("GET", s.location(r), nil), 200)
	// A wrong digest stores nothing.
	at := s.location(s.want(s.do("POST", "/v2/x/blobs/uploads/", nil), 202))
	wrong := digest.FromString("other")
	s.want(s.do("PUT", withDigest(at, wrong), []byte("this"), "Content-Type", octets), 400)
	s.want(s.do("HEAD", "/v2/x/blobs/"+wrong.String(), nil), 404)
	s.want(s.do("HEAD", "/v2/x/blobs/"+digest.FromString("this").String(), nil), 404)
	at = s.location(s.want(s.do("POST", "/v2/x/blobs/uploads/", nil), 202))
	s.want(s.do("PUT", withDigest(at, "sha256:short"), []byte("this"), "Content-Type", octets), 400)
	// Mounts.
	r = s.want(s.do("POST", "/v2/y/z/blobs/uploads/?mount="+d.String()+"&from=x", nil), 201)
	if got := s.want(s.do("GET", s.location(r), nil), 200); !bytes.Equal(got.body, b) || !strings.Contains(s.location(r), "/v2/y/z/") {
		t.Errorf("mounted: %s, %q", s.location(r), got.body)
	}
	s.want(s.do("HEAD", "/v2/y/z/blobs/"+d.String(), nil), 200)
	r = s.want(s.do("POST", "/v2/y/z/blobs/uploads/?mount="+wrong.String()+"&from=x", nil), 202)
	s.location(r)
	// From nowhere in particular: found, or the upload begins.
	if r = s.do("POST", "/v2/y/z/blobs/uploads/?mount="+d.String(), nil); r.StatusCode != 201 {
		s.want(r, 202)
	}
	s.location(r)
	s.want(s.do("POST", "/v2/y/z/blobs/uploads/?mount="+d.String()+"&from=nowhere", nil), 202)
	// Nothing is content, too.
	none := s.blob("x", nil)
	if r = s.want(s.do("GET", "/v2/x/blobs/"+none.Digest.String(), nil), 200); len(r.body) != 0 {
		t.Errorf("the empty blob: %q", r.body)
	}
	// Cancelled.
	at = s.location(s.want(s.do("POST", "/v2/x/blobs/uploads/", nil), 202))
	s.want(s.do("DELETE", at, nil), 204)
	s.want(s.do("GET", at, nil), 404)
	s.want(s.do("PUT", withDigest(at, digest.FromString("late")), []byte("late"), "Content-Type", octets), 404)
}

func pushesChunks(t *testing.T) {
	s := serve(t, Options{})
	b := []byte("0123456789abcdef")
	d := digest.FromBytes(b)
	at := s.location(s.want(s.do("POST", "/v2/x/blobs/uploads/", nil, "Content-Length", "0"), 202))
	// Not from the beginning.
	s.want(s.do("PATCH", at, b[4:8], "Content-Type", octets, "Content-Range", "4-7"), 416)
	patch := func(from, to int) {
		t.Helper()
		r := s.want(s.do("PATCH", at, b[from:to], "Content-Type", octets, "Content-Range", fmt.Sprintf("%d-%d", from, to-1)), 202)
		if r.Header.Get("Range") != fmt.Sprintf("0-%d", to-1) {
			t.Errorf("Range %q after byte %d", r.Header.Get("Range"), to-1)
		}
		at = s.location(r)
	}
	patch(0, 5)
	s.want(s.do("PATCH", at, b[8:12], "Content-Type", octets, "Content-Range", "8-11"), 416) // a hole
	s.want(s.do("PATCH", at, b[0:5], "Content-Type", octets, "Content-Range", "0-4"), 416)   // again
	r := s.want(s.do("GET", at, nil), 204)
	if r.Header.Get("Range") != "0-4" {
		t.Errorf("status: Range %q", r.Header.Get("Range"))
	}
	at = s.location(r)
	patch(5, 10)
	s.want(s.do("PUT", withDigest(at, d), b[12:], "Content-Type", octets, "Content-Range", "12-15"), 416)
	at = s.location(s.want(s.do("GET", at, nil), 204))
	r = s.want(s.do("PUT", withDigest(at, d), b[10:], "Content-Type", octets, "Content-Range", "10-15"), 201)
	if got := s.want(s.do("GET", s.location(r), nil), 200); !bytes.Equal(got.body, b) {
		t.Errorf("blob of chunks: %q", got.body)
	}
	// The last chunk by PATCH, the session closed by an empty PUT.
	b = []byte("another blob")
	d = digest.FromBytes(b)
	at = s.location(s.want(s.do("POST", "/v2/x/blobs/uploads/", nil), 202))
	patch(0, 12)
	r = s.want(s.do("PUT", withDigest(at, d), nil), 201)
	s.want(s.do("GET", s.location(r), nil), 200)
	// Without ranges, as docker does.
	b = []byte("streamed")
	at = s.location(s.want(s.do("POST", "/v2/x/blobs/uploads/", nil), 202))
	r = s.want(s.do("PATCH", at, b), 202)
	s.want(s.do("PUT", withDigest(s.location(r), digest.FromBytes(b)), nil), 201)
	// A session that never was.
	s.want(s.do("GET", "/v2/x/blobs/uploads/11111111-2222-3333-4444-555555555555", nil), 404)
}

func pushesManifests(t *testing.T) {
	s := serve(t, Options{})
	config := s.blob("x", []byte(`{}`))
	config.MediaType = "application/vnd.example.thing"
	d, r := s.manifest("x", "v1", ocispec.Manifest{Config: config}) // no blobs but the config
	got := s.want(s.do("GET", s.location(r), nil, "Accept", accept), 200)
	if digest.FromBytes(got.body) != d.Digest {
		t.Error("the manifest's bytes changed")
	}
	if r.Header.Get("Docker-Content-Digest") != d.Digest.String() {
		t.Errorf("digest %q", r.Header.Get("Docker-Content-Digest"))
	}
	_, r = s.manifest("x", "", ocispec.Manifest{Config: config, Annotations: map[string]string{"by": "digest"}})
	s.want(s.do("GET", s.location(r), nil, "Accept", accept), 200)
	index, err := json.Marshal(ocispec.Index{Versioned: versioned, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d}})
	if err != nil {
		t.Fatal(err)
	}
	id, _ := s.document("x", "all", ocispec.MediaTypeImageIndex, index)
	got = s.want(s.do("GET", "/v2/x/manifests/all", nil), 200)
	if digest.FromBytes(got.body) != id.Digest || got.Header.Get("Content-Type") != ocispec.MediaTypeImageIndex {
		t.Errorf("index: %s as %s", got.body, got.Header.Get("Content-Type"))
	}
	// What it refers to is not there.
	b, err := json.Marshal(ocispec.Manifest{Versioned: versioned, MediaType: ocispec.MediaTypeImageManifest, Config: config,
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("none"), Size: 4}}})
	if err != nil {
		t.Fatal(err)
	}
	if r := s.do("PUT", "/v2/x/manifests/bad", b, "Content-Type", ocispec.MediaTypeImageManifest); r.StatusCode/100 != 4 || !strings.Contains(string(r.body), "MANIFEST_BLOB_UNKNOWN") {
		t.Errorf("missing layer: %s %s", r.Status, r.body)
	}
	s.want(s.do("GET", "/v2/x/manifests/bad", nil, "Accept", accept), 404)
	// Bounds: 4 MB are taken, more is refused by its own status.
	pad := func(n int) []byte {
		b, err := json.Marshal(ocispec.Manifest{Versioned: versioned, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{},
			Annotations: map[string]string{"pad": strings.Repeat("x", n)}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	s.document("x", "large", ocispec.MediaTypeImageManifest, pad(4<<20-1000))
	s.want(s.do("PUT", "/v2/x/manifests/larger", pad(4<<20+1), "Content-Type", ocispec.MediaTypeImageManifest), 413)
	s.want(s.do("PUT", "/v2/x/manifests/larger", nil, "Content-Type", ocispec.MediaTypeImageManifest), 400)
	req, err := http.NewRequest("PUT", s.url+"/v2/x/manifests/larger", io.MultiReader(bytes.NewReader(pad(4<<20+1)))) // without a length
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", ocispec.MediaTypeImageManifest)
	if resp, err := http.DefaultClient.Do(req); err != nil || resp.StatusCode != 413 {
		t.Errorf("%+v %v", resp, err)
	} else {
		resp.Body.Close()
	}
	s.want(s.do("PUT", "/v2/x/manifests/"+digest.FromString("other").String(), pad(1), "Content-Type", ocispec.MediaTypeImageManifest), 400)
	s.want(s.do("PUT", "/v2/x/manifests/garbage", []byte("no json"), "Content-Type", ocispec.MediaTypeImageManifest), 400)
	s.want(s.do("PUT", "/v2/UPPER/manifests/v1", pad(1), "Content-Type", ocispec.MediaTypeImageManifest), 404)
}

func listsTags(t *testing.T) {
	s := serve(t, Options{})
	want := []string{"10", "2", "A", "Z", "_x", "a", "b.c", "latest"}
	config := s.blob("x", []byte(`{}`))
	for _, tag := range []string{"b.c", "10", "_x", "a", "latest", "Z", "2", "A"} {
		s.manifest("x", tag, ocispec.Manifest{Config: config})
	}
	list := func(query string) ([]string, *response) {
		t.Helper()
		r := s.want(s.do("GET", "/v2/x/tags/list"+query, nil), 200)
		var doc struct {
			Name string
			Tags []string
		}
		if err := json.Unmarshal(r.body, &doc); err != nil || doc.Name != "x" || doc.Tags == nil {
			t.Fatalf("%s: %v", r.body, err)
		}
		return doc.Tags, r
	}
	if got, r := list(""); !slices.Equal(got, want) || r.Header.Get("Link") != "" {
		t.Errorf("tags %v, Link %q", got, r.Header.Get("Link"))
	}
	if got, r := list("?n=0"); len(got) != 0 || r.Header.Get("Link") != "" {
		t.Errorf("n=0: %v, Link %q", got, r.Header.Get("Link"))
	}
	var all []string
	at := "?n=3"
	for range 4 {
		got, r := list(at)
		all = append(all, got...)
		link := r.Header.Get("Link")
		if link == "" {
			break
		}
		m := regexp.MustCompile(`^<([^>]*)>; ?rel="next"$`).FindStringSubmatch(link)
		if m == nil {
			t.Fatalf("Link %q", link)
		}
		if len(got) != 3 {
			t.Errorf("%d tags for n=3 before the end", len(got))
		}
		_, at, _ = strings.Cut(m[1], "?")
		at = "?" + at
	}
	if !slices.Equal(all, want) {
		t.Errorf("in pages: %v", all)
	}
	if got, _ := list("?last=Z"); !slices.Equal(got, want[4:]) {
		t.Errorf("after Z: %v", got)
	}
	if got, _ := list("?n=2&last=A"); !slices.Equal(got, []string{"Z", "_x"}) {
		t.Errorf("two after A: %v", got)
	}
	if got, _ := list("?n=100"); !slices.Equal(got, want) {
		t.Errorf("n=100: %v", got)
	}
	s.want(s.do("GET", "/v2/x/tags/list?n=many", nil), 400)
	s.want(s.do("GET", "/v2/nowhere/tags/list", nil), 404)
}

func listsReferrers(t *testing.T) {
	s := serve(t, Options{Delete: true})
	config := s.blob("x", []byte(`{}`))
	config.MediaType = "application/vnd.example.config"
	subject := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("later"), Size: 5}
	list := func(query string) ([]ocispec.Descriptor, *response) {
		t.Helper()
		r := s.want(s.do("GET", "/v2/x/referrers/"+subject.Digest.String()+query, nil), 200)
		var doc ocispec.Index
		if err := json.Unmarshal(r.body, &doc); err != nil || doc.MediaType != ocispec.MediaTypeImageIndex || doc.SchemaVersion != 2 || doc.Manifests == nil {
			t.Fatalf("%s: %v", r.body, err)
		}
		if r.Header.Get("Content-Type") != ocispec.MediaTypeImageIndex {
			t.Errorf("Content-Type %q", r.Header.Get("Content-Type"))
		}
		return doc.Manifests, r
	}
	if got, _ := list(""); len(got) != 0 {
		t.Errorf("before any push: %v", got)
	}
	// The subject need not be there; config's type stands in for artifactType.
	signature, r := s.manifest("x", "", ocispec.Manifest{Config: config, Subject: &subject, Annotations: map[string]string{"k": "v"}})
	if r.Header.Get("OCI-Subject") != subject.Digest.String() {
		t.Errorf("OCI-Subject %q", r.Header.Get("OCI-Subject"))
	}
	sbom, _ := s.manifest("x", "sbom", ocispec.Manifest{Config: config, Subject: &subject, ArtifactType: "application/vnd.example.sbom"})
	b, err := json.Marshal(ocispec.Index{Versioned: versioned, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}, Subject: &subject, Annotations: map[string]string{"i": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	plain, r := s.document("x", "", ocispec.MediaTypeImageIndex, b)
	if r.Header.Get("OCI-Subject") != subject.Digest.String() {
		t.Errorf("index: OCI-Subject %q", r.Header.Get("OCI-Subject"))
	}
	if _, r := s.manifest("x", "none", ocispec.Manifest{Config: config}); r.Header.Get("OCI-Subject") != "" {
		t.Errorf("OCI-Subject %q without a subject", r.Header.Get("OCI-Subject"))
	}
	signature.ArtifactType, signature.Annotations = config.MediaType, map[string]string{"k": "v"}
	sbom.ArtifactType = "application/vnd.example.sbom"
	plain.Annotations = map[string]string{"i": "x"}
	same := func(got []ocispec.Descriptor, want ...ocispec.Descriptor) {
		t.Helper()
		slices.SortFunc(want, func(a, b ocispec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
		if !slices.EqualFunc(got, want, func(a, b ocispec.Descriptor) bool {
			return a.Digest == b.Digest && a.MediaType == b.MediaType && a.Size == b.Size && a.ArtifactType == b.ArtifactType && maps.Equal(a.Annotations, b.Annotations)
		}) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
	got, _ := list("")
	same(got, signature, sbom, plain)
	got, r = list("?artifactType=application/vnd.example.sbom")
	same(got, sbom)
	if r.Header.Get("OCI-Filters-Applied") != "artifactType" {
		t.Errorf("OCI-Filters-Applied %q", r.Header.Get("OCI-Filters-Applied"))
	}
	got, _ = list("?artifactType=none")
	same(got)
	// Another repository has none, an unknown one neither, and never a 404.
	if r := s.want(s.do("GET", "/v2/nowhere/referrers/"+subject.Digest.String(), nil), 200); !strings.Contains(string(r.body), `"manifests":[]`) {
		t.Errorf("elsewhere: %s", r.body)
	}
	s.want(s.do("GET", "/v2/x/referrers/sha256:short", nil), 400)
	s.want(s.do("GET", "/v2/x/referrers/latest", nil), 400)
	// Deleted ones are gone, pushed again they are back.
	s.want(s.do("DELETE", "/v2/x/manifests/"+sbom.Digest.String(), nil), 202)
	got, _ = list("")
	same(got, signature, plain)
	s.manifest("x", "sbom", ocispec.Manifest{Config: config, Subject: &subject, ArtifactType: "application/vnd.example.sbom"})
	got, _ = list("")
	same(got, signature, sbom, plain)

	// Those that a client of before listed under a tag are included.
	old := serve(t, Options{Data: t.TempDir()})
	old.blob("x", []byte(`{}`))
	old.front.upstream = &upstream{} // as a registry without the API took them
	m, r := old.manifest("x", "", ocispec.Manifest{Config: config, Subject: &subject, ArtifactType: "application/old"})
	if r.Header.Get("OCI-Subject") != "" {
		t.Error("the registry of before knows subjects")
	}
	b, err = json.Marshal(ocispec.Index{Versioned: versioned, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{m}})
	if err != nil {
		t.Fatal(err)
	}
	old.document("x", "sha256-"+subject.Digest.Encoded(), ocispec.MediaTypeImageIndex, b)
	old.front.upstream = nil
	s = old
	m.ArtifactType = "application/old"
	got, _ = list("")
	same(got, m)

	// More than one answer holds comes in pages.
	s = serve(t, Options{})
	config = s.blob("x", []byte(`{}`))
	for i := range 3 {
		s.manifest("x", "", ocispec.Manifest{Config: config, Subject: &subject, ArtifactType: "application/big", Annotations: map[string]string{"n": strconv.Itoa(i), "pad": strings.Repeat("x", 1<<20)}})
	}
	seen := map[digest.Digest]bool{}
	query := "?artifactType=application/big"
	pages := 0
	for query != "" {
		got, r := list(query)
		pages++
		for _, d := range got {
			seen[d.Digest] = true
		}
		query = ""
		if m := regexp.MustCompile(`^</v2/x/referrers/[^?]*(\?[^>]*)>; rel="next"$`).FindStringSubmatch(r.Header.Get("Link")); m != nil {
			query = m[1]
		}
	}
	if len(seen) != 3 || pages < 2 {
		t.Errorf("%d of 3 referrers in %d pages", len(seen), pages)
	}
}

func manages(t *testing.T) {
	s := serve(t, Options{Delete: true})
	m := s.image("x", "v1", "content")
	s.document("x", "v2", m.MediaType, s.want(s.do("GET", "/v2/x/manifests/v1", nil), 200).body)
	layer := digest.FromString("content").String()
	s.want(s.do("DELETE", "/v2/x/manifests/v1", nil), 202)
	s.want(s.do("GET", "/v2/x/manifests/v1", nil), 404)
	s.want(s.do("GET", "/v2/x/manifests/v2", nil), 200)
	s.want(s.do("GET", "/v2/x/manifests/"+m.Digest.String(), nil), 200)
	s.want(s.do("DELETE", "/v2/x/manifests/"+m.Digest.String(), nil), 202)
	s.want(s.do("GET", "/v2/x/manifests/"+m.Digest.String(), nil), 404)
	s.want(s.do("GET", "/v2/x/manifests/v2", nil), 404)
	s.want(s.do("DELETE", "/v2/x/blobs/"+layer, nil), 202)
	s.want(s.do("GET", "/v2/x/blobs/"+layer, nil), 404)
	s.want(s.do("HEAD", "/v2/x/blobs/"+layer, nil), 404)
	s.want(s.do("DELETE", "/v2/x/blobs/"+layer, nil), 404)
	s.want(s.do("DELETE", "/v2/nowhere/manifests/"+m.Digest.String(), nil), 404)
	s.want(s.do("DELETE", "/v2/nowhere/manifests/v1", nil), 404)
	s.want(s.do("DELETE", "/v2/nowhere/blobs/"+layer, nil), 404)
	// A repository whose tags are all deleted is still there.
	if r := s.want(s.do("GET", "/v2/x/tags/list", nil), 200); !strings.Contains(string(r.body), `"tags":[]`) {
		t.Errorf("tags of nothing: %s", r.body)
	}
}

func managesNot(t *testing.T) {
	s := serve(t, Options{})
	m := s.image("x", "v1", "content")
	for _, path := range []string{"manifests/v1", "manifests/" + m.Digest.String(), "blobs/" + digest.FromString("content").String()} {
		if r := s.do("DELETE", "/v2/x/"+path, nil); r.StatusCode != 400 && r.StatusCode != 405 {
			t.Errorf("%s: %s", path, r.Status)
		}
		s.want(s.do("GET", "/v2/x/"+path, nil), 200)
	}
}

var versioned = func() (v ocispec.Manifest) { v.SchemaVersion = 2; return }().Versioned
