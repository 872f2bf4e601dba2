package registry

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// names: what a name, a tag and a digest may be, and what is said otherwise.
func names(t *testing.T) {
	s := serve(t, Options{})
	config := s.blob("x", []byte(`{}`))
	b, err := json.Marshal(ocispec.Manifest{Versioned: versioned, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{}})
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(b)
	longest := strings.Repeat("t", 128)
	for _, tag := range []string{"a", "_", "0", "A.b-c_d", longest} {
		s.document("x", tag, ocispec.MediaTypeImageManifest, b)
		s.want(s.do("GET", "/v2/x/manifests/"+tag, nil), 200)
	}
	for _, ref := range []string{longest + "t", ".a", "-a", "a@b", "a:b", "sha256:", d.String() + "0", d.String()[:70], "sha256:" + strings.ToUpper(d.Encoded())} {
		for _, method := range []string{"PUT", "GET", "HEAD", "DELETE"} {
			if r := s.do(method, "/v2/x/manifests/"+ref, b, "Content-Type", ocispec.MediaTypeImageManifest); r.StatusCode/100 != 4 {
				t.Errorf("%s %q: %s", method, ref, r.Status)
			}
		}
	}
	if r := s.want(s.do("GET", "/v2/x/tags/list", nil), 200); !strings.Contains(string(r.body), strconv.Quote(longest)) || strings.Contains(string(r.body), longest+"t") {
		t.Errorf("tags %s", r.body)
	}
	for _, name := range []string{"a", "a/b", "a.b-c_d__e---f", "0/1"} {
		s.want(s.do("POST", "/v2/"+name+"/blobs/uploads/", nil), 202)
	}
	for _, name := range []string{"UPPER", "a//b", "a/../b", "a._b", "-a", "a-", "a/", "_a", "ä"} {
		if r := s.do("POST", "/v2/"+name+"/blobs/uploads/", nil); r.StatusCode/100 == 2 {
			t.Errorf("an upload to %q: %s", name, r.Status)
		}
	}
}

// algorithms: layers may have digests of another algorithm than the registry's own.
func algorithms(t *testing.T) {
	s := serve(t, Options{Delete: true})
	b := []byte("by sha512")
	d := digest.SHA512.FromBytes(b)
	at := s.location(s.want(s.do("POST", "/v2/x/blobs/uploads/", nil), 202))
	r := s.want(s.do("PUT", withDigest(at, d), b, "Content-Type", octets), 201)
	if got := s.want(s.do("GET", s.location(r), nil), 200); !bytes.Equal(got.body, b) {
		t.Errorf("Location leads to %q", got.body)
	}
	for _, method := range []string{"GET", "HEAD"} {
		r := s.want(s.do(method, "/v2/x/blobs/"+d.String(), nil), 200)
		if got := digest.Digest(r.Header.Get("Docker-Content-Digest")); got != d && got != digest.FromBytes(b) {
			t.Errorf("%s: digest %q", method, got)
		}
	}
	m, err := json.Marshal(ocispec.Manifest{Versioned: versioned, MediaType: ocispec.MediaTypeImageManifest, Config: s.blob("x", []byte(`{}`)),
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: int64(len(b))}}})
	if err != nil {
		t.Fatal(err)
	}
	// An image may have such layers; its manifest is kept by sha256, and who asks for more is told.
	image, _ := s.document("x", "v1", ocispec.MediaTypeImageManifest, m)
	s.want(s.do("GET", "/v2/x/manifests/"+image.Digest.String(), nil, "Accept", accept), 200)
	by512 := "/v2/x/manifests/" + digest.SHA512.FromBytes(m).String()
	if r := s.want(s.do("PUT", by512, m, "Content-Type", ocispec.MediaTypeImageManifest), 400); !strings.Contains(string(r.body), "manifests are kept by their sha256, not by sha512") {
		t.Errorf("%s", r.body)
	}
	s.want(s.do("GET", by512, nil, "Accept", accept), 404)
	// What has such a layer keeps it from the collection.
	s.load()
	if n := s.sweep(0); n != 0 {
		t.Errorf("%d blobs of an image removed", n)
	}
	s.want(s.do("GET", "/v2/x/blobs/"+d.String(), nil), 200)
}
