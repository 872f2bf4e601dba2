package registry

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"path"
	"slices"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A referrer's record is its descriptor, kept beside the repository's manifests:
//
//	/docker/registry/v2/repositories/<name>/_referrers/<subject>/<digest>
//
// with the colons of digests as hyphens. It counts only as long as the manifest
// itself is there.
func referrerDir(name string, subject digest.Digest) string {
	return path.Join("/docker/registry/v2/repositories", name, "_referrers", hyphened(subject))
}

func hyphened(d digest.Digest) string { return d.Algorithm().String() + "-" + d.Encoded() }

// descriptor describes the document to those who look for referrers.
func (d *document) descriptor(mediaType string, self digest.Digest, size int64) ocispec.Descriptor {
	out := ocispec.Descriptor{MediaType: mediaType, Digest: self, Size: size, ArtifactType: d.ArtifactType, Annotations: d.Annotations}
	if out.ArtifactType == "" && d.Config != nil {
		out.ArtifactType = d.Config.MediaType
	}
	return out
}

func (f *front) record(ctx context.Context, name string, subject digest.Digest, desc ocispec.Descriptor) error {
	b, err := json.Marshal(desc)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.driver.PutContent(ctx, path.Join(referrerDir(name, subject), hyphened(desc.Digest)), b)
}

// maxReferrers bounds one page of referrers, in bytes.
const maxReferrers = 2 << 20

// referrers lists the manifests that name a digest as their subject.
func (f *front) referrers(a *answer, r *http.Request, name, ref string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		a.Header().Set("Allow", "GET, HEAD")
		a.refuse(http.StatusMethodNotAllowed, "UNSUPPORTED", "referrers can only be listed")
		return
	}
	subject, err := digest.Parse(ref)
	if err != nil {
		a.refuse(http.StatusBadRequest, "DIGEST_INVALID", "invalid digest: "+err.Error())
		return
	}
	if !f.mayPull(a, r, name) {
		return
	}
	find := f.referrersOf
	if f.upstream != nil {
		find = func(ctx context.Context, name string, subject digest.Digest) ([]ocispec.Descriptor, error) {
			return f.cached(ctx, r, name, subject)
		}
	}
	list, err := find(r.Context(), name, subject)
	var said *statusError
	switch {
	case errors.As(err, &said) && said.status == http.StatusTooManyRequests:
		if said.retryAfter != "" {
			a.Header().Set("Retry-After", said.retryAfter)
		}
		a.refuse(http.StatusTooManyRequests, "TOOMANYREQUESTS", err.Error())
		return
	case err != nil && f.upstream != nil:
		a.refuse(http.StatusBadGateway, "UNKNOWN", err.Error())
		return
	case err != nil:
		a.refuse(http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	q := r.URL.Query()
	if kind := q.Get("artifactType"); kind != "" {
		list = slices.DeleteFunc(list, func(d ocispec.Descriptor) bool { return d.ArtifactType != kind })
		a.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	page, rest := onePage(list, q.Get("last"))
	if rest {
		q.Set("last", page[len(page)-1].Digest.String())
		next := url.URL{Path: r.URL.Path, RawQuery: q.Encode()}
		a.Header().Set("Link", "<"+next.String()+`>; rel="next"`)
	}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: page}
	index.SchemaVersion = 2
	b, err := json.Marshal(index)
	if err != nil {
		a.refuse(http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	a.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	a.Write(b) //nolint:errcheck // the client has gone
}

// onePage takes what fits from the sorted list, beginning after last; rest
// tells whether more follows.
func onePage(list []ocispec.Descriptor, last string) (page []ocispec.Descriptor, rest bool) {
	page = []ocispec.Descriptor{}
	size := 0
	for _, d := range list {
		if d.Digest.String() <= last {
			continue
		}
		size += 300 + len(d.ArtifactType)
		for k, v := range d.Annotations {
			size += len(k) + len(v) + 6
		}
		if size > maxReferrers && len(page) > 0 {
			return page, true
		}
		page = append(page, d)
	}
	return page, false
}

// mayPull asks distribution's handlers, by a request for nothing, whether the
// client may read the repository; if not, it has answered.
func (f *front) mayPull(a *answer, r *http.Request, name string) bool {
	probe := r.Clone(r.Context())
	probe.Method, probe.Body = http.MethodGet, http.NoBody
	probe.URL = &url.URL{Path: path.Join(f.prefix, "/v2", name, "tags/list"), RawQuery: "n=0"}
	probe.RequestURI = probe.URL.RequestURI()
	said := &notes{header: http.Header{}, code: http.StatusOK}
	f.app.ServeHTTP(said, probe)
	if said.code == http.StatusOK || said.code == http.StatusNotFound {
		return true
	}
	for k, v := range said.header {
		a.Header()[k] = v
	}
	a.WriteHeader(said.code)
	a.Write(said.body.Bytes()) //nolint:errcheck // it is held
	return false
}

// notes is a response that goes to nobody.
type notes struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (n *notes) Header() http.Header         { return n.header }
func (n *notes) WriteHeader(code int)        { n.code = code }
func (n *notes) Write(b []byte) (int, error) { return n.body.Write(b) }

// referrersOf finds the records, and what clients of before keep under the tag
// that stands for the digest, sorted by digest.
func (f *front) referrersOf(ctx context.Context, name string, subject digest.Digest) ([]ocispec.Descriptor, error) {
	named, err := reference.WithName(name)
	if err != nil {
		return nil, nil // it cannot have any
	}
	repo, err := f.registry.Repository(ctx, named)
	if err != nil {
		return nil, err
	}
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return nil, err
	}
	found := map[digest.Digest]ocispec.Descriptor{}
	files, err := f.driver.List(ctx, referrerDir(name, subject))
	if err != nil && !errors.As(err, new(driver.PathNotFoundError)) {
		return nil, err
	}
	for _, file := range files {
		b, err := f.driver.GetContent(ctx, file)
		if errors.As(err, new(driver.PathNotFoundError)) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var d ocispec.Descriptor
		if json.Unmarshal(b, &d) != nil || d.Digest.Validate() != nil {
			continue // it was being written when the machine died; the push was not answered
		}
		there, err := manifests.Exists(ctx, d.Digest)
		if err != nil {
			return nil, err
		}
		if there {
			found[d.Digest] = d
		} else if err := f.forget(ctx, manifests, file, d.Digest); err != nil {
			return nil, err
		}
	}
	if err := tagged(ctx, repo, manifests, subject, found); err != nil {
		return nil, err
	}
	list := make([]ocispec.Descriptor, 0, len(found))
	for _, d := range found {
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b ocispec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	return list, nil
}

// forget throws the record of a manifest away that was deleted.
func (f *front) forget(ctx context.Context, manifests distribution.ManifestService, file string, d digest.Digest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if there, err := manifests.Exists(ctx, d); err != nil || there {
		return err // it came back just now
	}
	if err := f.driver.Delete(ctx, file); !errors.As(err, new(driver.PathNotFoundError)) {
		return err
	}
	return nil
}

// tagged adds the referrers that clients without the API have listed in the
// index under the tag <algorithm>-<hex>.
func tagged(ctx context.Context, repo distribution.Repository, manifests distribution.ManifestService, subject digest.Digest, found map[digest.Digest]ocispec.Descriptor) error {
	at, err := repo.Tags(ctx).Get(ctx, fallbackTag(subject))
	if err != nil {
		return nil //nolint:nilerr // there is none
	}
	index, err := manifests.Get(ctx, at.Digest)
	if err != nil {
		return nil //nolint:nilerr // nor anything behind it
	}
	for _, d := range index.References() {
		if _, known := found[d.Digest]; known {
			continue
		}
		m, err := manifests.Get(ctx, d.Digest)
		if err != nil {
			continue
		}
		kind, body, err := m.Payload()
		if err != nil {
			return err
		}
		var doc document
		if json.NewDecoder(bytes.NewReader(body)).Decode(&doc) == nil && doc.Subject != nil && doc.Subject.Digest == subject {
			found[d.Digest] = doc.descriptor(kind, d.Digest, int64(len(body)))
		}
	}
	return nil
}

// cached lists the upstream's referrers. An upstream without that address has
// them under the tag, if anywhere. What it said is kept for when it is away, in
//
//	/docker/registry/v2/repositories/<name>/_referrers/<subject>/upstream
func (f *front) cached(ctx context.Context, r *http.Request, name string, subject digest.Digest) ([]ocispec.Descriptor, error) {
	if _, err := reference.WithName(name); err != nil {
		return nil, nil // it cannot have any
	}
	file := path.Join(referrerDir(name, subject), "upstream")
	list, err := f.upstream.referrers(ctx, name, subject)
	var said *statusError
	if errors.As(err, &said) && (said.status == http.StatusNotFound || said.status == http.StatusMethodNotAllowed || said.status == http.StatusBadRequest) {
		list, err = f.underTag(r, name, subject)
	}
	if err != nil {
		b, missing := f.driver.GetContent(ctx, file)
		if missing != nil || json.Unmarshal(b, &list) != nil {
			return nil, err
		}
		return list, nil
	}
	slices.SortFunc(list, func(a, b ocispec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	list = slices.CompactFunc(list, func(a, b ocispec.Descriptor) bool { return a.Digest == b.Digest })
	if len(list) == 0 {
		if err := f.driver.Delete(ctx, file); err != nil && !errors.As(err, new(driver.PathNotFoundError)) {
			return nil, err
		}
		return list, nil
	}
	b, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return list, f.driver.PutContent(ctx, file, b)
}

// underTag reads the index under the tag that stands for the digest, through
// the cache.
func (f *front) underTag(r *http.Request, name string, subject digest.Digest) ([]ocispec.Descriptor, error) {
	probe := r.Clone(r.Context())
	probe.Method, probe.Body = http.MethodGet, http.NoBody
	probe.URL = &url.URL{Path: path.Join(f.prefix, "/v2", name, "manifests", fallbackTag(subject))}
	probe.RequestURI = probe.URL.RequestURI()
	probe.Header.Set("Accept", ocispec.MediaTypeImageIndex)
	said := &notes{header: http.Header{}, code: http.StatusOK}
	f.app.ServeHTTP(said, probe)
	switch {
	case said.code == http.StatusOK:
		list, err := descriptors(said.body.Bytes())
		if err != nil {
			return nil, nil //nolint:nilerr // some image has a strange tag
		}
		return list, nil
	case said.code/100 == 4 && said.code != http.StatusTooManyRequests:
		return nil, nil
	}
	return nil, &statusError{said.code, said.header.Get("Retry-After")}
}

// fallbackTag is where clients keep referrers in a registry without the API.
func fallbackTag(subject digest.Digest) string {
	algorithm, encoded := subject.Algorithm().String(), subject.Encoded()
	return algorithm[:min(len(algorithm), 32)] + "-" + encoded[:min(len(encoded), 64)]
}
