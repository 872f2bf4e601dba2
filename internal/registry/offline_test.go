package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestCollectUntagged: what a tag leads to stays, its parts and what is said
// about them too; everything else goes.
func TestCollectUntagged(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, Options{Data: dir})
	part := s.image("x", "", "of an index")
	b, err := json.Marshal(ocispec.Index{Versioned: versioned, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{part}})
	if err != nil {
		t.Fatal(err)
	}
	s.document("x", "all", ocispec.MediaTypeImageIndex, b)
	config := s.blob("x", []byte(`{}`))
	about := func(subject ocispec.Descriptor, n string) ocispec.Descriptor {
		d, _ := s.manifest("x", "", ocispec.Manifest{Config: config, Subject: &subject, ArtifactType: "application/vnd.example", Annotations: map[string]string{"n": n}})
		return d
	}
	signature := about(part, "of the part")
	second := about(signature, "of the signature")
	gone := []digest.Digest{s.image("x", "", "without a tag").Digest}
	gone = append(gone, about(ocispec.Descriptor{MediaType: part.MediaType, Digest: gone[0], Size: 1}, "of the one without a tag").Digest)
	first := s.image("x", "moves", "before")
	s.image("x", "moves", "after")
	gone = append(gone, first.Digest)
	elsewhere := s.image("y", "", "of an index") // there it has no tag
	for _, d := range gone {
		s.want(s.do("GET", "/v2/x/manifests/"+d.String(), nil), 200)
	}
	if err := Collect(t.Context(), Options{Data: dir}, false, true, io.Discard); err == nil || !strings.Contains(err.Error(), dir+" is served by a wherry-registry: stop it first") {
		t.Errorf("while a server runs: %v", err)
	}
	s.close()

	var told bytes.Buffer
	had := blobsOn(t, dir)
	if err := Collect(t.Context(), Options{Data: dir}, true, true, &told); err != nil || blobsOn(t, dir) != had {
		t.Errorf("a dry run: %v, %d of %d blobs left", err, blobsOn(t, dir), had)
	}
	want := []string{fmt.Sprintf("manifest eligible for deletion: y@%s", elsewhere.Digest)}
	for _, d := range gone {
		want = append(want, fmt.Sprintf("manifest eligible for deletion: x@%s", d))
	}
	lines := slices.DeleteFunc(strings.Split(told.String(), "\n"), func(l string) bool { return !strings.HasPrefix(l, "manifest") })
	slices.Sort(lines)
	slices.Sort(want)
	if !slices.Equal(lines, want) {
		t.Errorf("told\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	if err := Collect(t.Context(), Options{Data: dir}, false, true, io.Discard); err != nil {
		t.Fatal(err)
	}
	s = serve(t, Options{Data: dir})
	for _, ref := range []string{"all", "moves", part.Digest.String(), signature.Digest.String(), second.Digest.String()} {
		s.want(s.do("GET", "/v2/x/manifests/"+ref, nil), 200)
	}
	for _, content := range []string{"of an index", "after", "{}"} {
		s.want(s.do("GET", "/v2/x/blobs/"+digest.FromString(content).String(), nil), 200)
	}
	if r := s.want(s.do("GET", "/v2/x/referrers/"+part.Digest.String(), nil), 200); !strings.Contains(string(r.body), signature.Digest.String()) {
		t.Errorf("referrers: %s", r.body)
	}
	for _, d := range gone {
		s.want(s.do("GET", "/v2/x/manifests/"+d.String(), nil), 404)
	}
	s.want(s.do("GET", "/v2/y/manifests/"+elsewhere.Digest.String(), nil), 404)
	for _, content := range []string{"without a tag", "before"} {
		s.want(s.do("GET", "/v2/x/blobs/"+digest.FromString(content).String(), nil), 404)
	}
	if n := had - blobsOn(t, dir); n != 7 { // two images of three, and one signature
		t.Errorf("%d blobs went", n)
	}
}

// TestCollectRefuses: what an offline collection would spoil is refused, with
// the way out, and nothing is touched.
func TestCollectRefuses(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, Options{Data: dir})
	s.blob("x", []byte("without an image"))
	s.close()
	file := filepath.Join(t.TempDir(), "config.yml")
	const head = "version: 0.1\nstorage:\n  filesystem: {rootdirectory: DIR}\n"
	for text, want := range map[string]string{
		head + "  cache: {blobdescriptor: redis}\nredis: {addrs: ['127.0.0.1:1']}\n": "the Redis of storage.cache would go on telling of blobs that were removed: collect with a configuration without storage.cache, and empty that Redis",
		head + "  cache: {layerinfo: redis}\nredis: {addrs: ['127.0.0.1:1']}\n":      "the Redis of storage.cache",
		head + "proxy: {remoteurl: 'http://127.0.0.1:1'}\n":                          "a cache of another registry removes what is old by itself (proxy.ttl)",
	} {
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Collect(t.Context(), Options{File: file}, false, false, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
		if n := blobsOn(t, dir); n != 1 {
			t.Fatalf("%d blobs left", n)
		}
	}
	if err := Collect(t.Context(), Options{Data: dir}, false, false, io.Discard); err != nil || blobsOn(t, dir) != 0 {
		t.Errorf("the way out: %v, %d blobs left", err, blobsOn(t, dir))
	}
}
