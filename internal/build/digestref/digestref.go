// Package digestref owns how a base image that is named by its digest is found
// here. BuildKit looks an image up by its tag alone, and then compares the
// digest. One that is here under any other tag, or none, is therefore given a
// tag that says the digest, which the table of images reads. A registry may know
// an image by another digest than it has here, when a push compressed its layers:
// the tag says the one, and what BuildKit compares is the other.
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
// here tells the digest that what a reference stands for has here, "" for nothing;
// one whose own tag leads to the digest, and one that is not here, need none.
func Tag(source string, here func(reference.Named) digest.Digest) (string, bool) {
	ref, ok := strings.CutPrefix(source, scheme)
	if !ok || !strings.Contains(ref, "@") {
		return "", false
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", false
	}
	c, ok := named.(reference.Canonical)
	if !ok || c.Digest().Algorithm() != digest.SHA256 {
		return "", false
	}
	has := here(c)
	if has == "" {
		return "", false
	}
	tagged, ok := named.(reference.Tagged)
	if !ok {
		tagged = reference.TagNameOnly(reference.TrimNamed(named)).(reference.Tagged)
	}
	own, err := reference.WithTag(reference.TrimNamed(named), tagged.Tag())
	if err != nil || here(own) == c.Digest() {
		return "", false
	}
	return scheme + named.Name() + ":" + prefix + c.Digest().Encoded() + "@" + has.String(), true
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
