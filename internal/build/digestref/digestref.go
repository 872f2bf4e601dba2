// Package digestref owns how a base image that is named by its digest is found
// here. BuildKit looks an image up by its tag alone, and then compares the
// digest. One that is here under any other tag, or none, is therefore given a
// tag that says the digest, which the table of images reads.
package digestref

import (
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

const (
	scheme = "docker-image://"
	prefix = "sha256-"
)

// Tag gives the source of an image that is named by its digest a tag for Read.
// target tells the digest of what is here under a reference, "" for nothing; one
// whose own tag leads to the digest, and one that is not here, need none.
func Tag(source string, target func(ref string) digest.Digest) (string, bool) {
	ref, ok := strings.CutPrefix(source, scheme)
	if !ok || !strings.Contains(ref, "@") {
		return "", false
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", false
	}
	c, ok := named.(reference.Canonical)
	if !ok || c.Digest().Algorithm() != digest.SHA256 || target(c.String()) == "" {
		return "", false
	}
	tag := "latest"
	if t, ok := named.(reference.Tagged); ok {
		tag = t.Tag()
	}
	if target(named.Name()+":"+tag) == c.Digest() {
		return "", false
	}
	return scheme + named.Name() + ":" + prefix + c.Digest().Encoded() + "@" + c.Digest().String(), true
}

// Read gives the image that a name with a tag of Tag's stands for.
func Read(name string) (canonical string, d digest.Digest, ok bool) {
	repository, hex, ok := strings.Cut(name, ":"+prefix)
	d = digest.NewDigestFromEncoded(digest.SHA256, hex)
	if !ok || d.Validate() != nil {
		return "", "", false
	}
	return repository + "@" + d.String(), d, true
}
