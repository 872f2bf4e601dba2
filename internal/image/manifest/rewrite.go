package manifest

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What an index says of manifests that attest something of another.
const (
	AttestationOf   = "vnd.docker.reference.digest" // annotation: the other's digest
	AttestationType = "vnd.docker.reference.type"
)

// Changes are blobs and documents that others stand for now. The media type of
// a descriptor may be empty for what it was.
type Changes map[digest.Digest]ocispec.Descriptor

// Rewrite returns a manifest or index that refers to what stands for what it
// referred to. All else in it stays, whether known here or not; without a
// change the answer is b.
func (c Changes) Rewrite(b []byte) ([]byte, error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, invalid("manifest: %v", err)
	}
	changed := false
	one := func(raw json.RawMessage) (json.RawMessage, error) {
		out, ok, err := c.descriptor(raw)
		changed = changed || ok
		return out, err
	}
	var err error
	for _, k := range []string{"config", "subject"} {
		if raw, ok := doc[k]; ok && err == nil {
			doc[k], err = one(raw)
		}
	}
	for _, k := range []string{"layers", "manifests"} {
		raw, ok := doc[k]
		if !ok || err != nil {
			continue
		}
		var list []json.RawMessage
		if err = json.Unmarshal(raw, &list); err != nil || list == nil {
			continue
		}
		for i := range list {
			if list[i], err = one(list[i]); err != nil {
				break
			}
		}
		if err == nil {
			doc[k], err = json.Marshal(list)
		}
	}
	if err != nil {
		return nil, invalid("manifest: %v", err)
	}
	if !changed {
		return b, nil
	}
	return ordered(doc, "schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations")
}

func (c Changes) descriptor(raw json.RawMessage) (json.RawMessage, bool, error) {
	var d ocispec.Descriptor
	if err := json.Unmarshal(raw, &d); err != nil || d.Digest == "" {
		return raw, false, err
	}
	now, replaced := c[d.Digest]
	of, attests := c[digest.Digest(d.Annotations[AttestationOf])]
	if !replaced && !attests {
		return raw, false, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, false, err
	}
	set := func(k string, v any) error {
		b, err := json.Marshal(v)
		fields[k] = b
		return err
	}
	var err error
	if replaced {
		err = set("digest", now.Digest)
		if err == nil {
			err = set("size", now.Size)
		}
		if err == nil && now.MediaType != "" {
			err = set("mediaType", now.MediaType)
		}
		delete(fields, "data") // the content, of old
	}
	if err == nil && attests {
		d.Annotations[AttestationOf] = of.Digest.String()
		err = set("annotations", d.Annotations)
	}
	if err != nil {
		return nil, false, err
	}
	out, err := ordered(fields, "mediaType", "digest", "size")
	return out, true, err
}

// Rename returns a text in which the digests of what others stand for now are
// those of the others. It is as long as it was.
func (c Changes) Rename(b []byte) []byte {
	for was, now := range c {
		if was.Algorithm() == now.Digest.Algorithm() {
			b = bytes.ReplaceAll(b, []byte(was.Encoded()), []byte(now.Digest.Encoded()))
		}
	}
	return b
}

// ordered writes an object, some of its fields first.
func ordered(fields map[string]json.RawMessage, first ...string) ([]byte, error) {
	var rest []string
	for k := range fields {
		if !slices.Contains(first, k) {
			rest = append(rest, k)
		}
	}
	slices.Sort(rest)
	var out bytes.Buffer
	for _, k := range append(first, rest...) {
		if fields[k] == nil {
			continue
		}
		name, err := json.Marshal(k)
		if err != nil {
			return nil, err
		}
		if out.Len() > 0 {
			out.WriteByte(',')
		}
		out.Write(name)
		out.WriteByte(':')
		out.Write(fields[k])
	}
	return slices.Concat([]byte("{"), out.Bytes(), []byte("}")), nil
}
