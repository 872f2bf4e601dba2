package manifest

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestRewrite(t *testing.T) {
	was, now, other := digest.FromString("was"), digest.FromString("now"), digest.FromString("other")
	c := Changes{was: {Digest: now, Size: 7, MediaType: "layer+gzip"}}
	fill := strings.NewReplacer("WAS", was.String(), "NOW", now.String(), "OTHER", other.String())
	for in, want := range map[string]string{
		// What is not known here stays, and so does what is not meant.
		`{"x":{"<":1.50},"layers":[{"size":9,"digest":"WAS","mediaType":"layer","urls":["u"],"y":"&"},{"digest":"OTHER","size": 1}],"config":{"digest":"OTHER"},"schemaVersion":2}`:                     `{"schemaVersion":2,"config":{"digest":"OTHER"},"layers":[{"mediaType":"layer+gzip","digest":"NOW","size":7,"urls":["u"],"y":"\u0026"},{"digest":"OTHER","size":1}],"x":{"<":1.50}}`,
		`{"schemaVersion":2,"config":{"digest":"WAS","data":"eHg=","size":2},"layers":null,"subject":{"digest":"WAS"}}`:                                                                                 `{"schemaVersion":2,"config":{"mediaType":"layer+gzip","digest":"NOW","size":7},"layers":null,"subject":{"mediaType":"layer+gzip","digest":"NOW","size":7}}`,
		`{"manifests":[{"digest":"OTHER","annotations":{"vnd.docker.reference.digest":"WAS","vnd.docker.reference.type":"attestation-manifest"},"platform":{"os":"unknown"}}],"annotations":{"a":"b"}}`: `{"manifests":[{"digest":"OTHER","annotations":{"vnd.docker.reference.digest":"NOW","vnd.docker.reference.type":"attestation-manifest"},"platform":{"os":"unknown"}}],"annotations":{"a":"b"}}`,
		`{ "layers": [ {"digest":"OTHER"} ] }`: `{ "layers": [ {"digest":"OTHER"} ] }`,
	} {
		got, err := c.Rewrite([]byte(fill.Replace(in)))
		if err != nil || string(got) != fill.Replace(want) {
			t.Errorf("%s\nbecame %s, %v\nnot    %s", fill.Replace(in), got, err, fill.Replace(want))
		}
	}
	for _, in := range []string{`[]`, `{"layers":{}}`, `{"layers":["x"]}`, `{"config":7}`} {
		if got, err := c.Rewrite([]byte(in)); err == nil {
			t.Errorf("%s became %s", in, got)
		}
	}
	text := `{"subject":[{"digest":{"sha256":"` + was.Encoded() + `"}}],"other":"` + other.String() + `"}`
	if got := string(c.Rename([]byte(text))); got != strings.ReplaceAll(text, was.Encoded(), now.Encoded()) {
		t.Error(got)
	}
	if got := string(Changes{was: ocispec.Descriptor{Digest: "sha512:" + digest.Digest(strings.Repeat("0", 128))}}.Rename([]byte(text))); got != text {
		t.Error(got)
	}
}
