package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/registry/sweep"
)

// maxManifest is what a manifest may have; the specification asks for 4 MB.
const maxManifest = 4 << 20

// front stands before distribution's handlers. It answers what they do not
// know (referrers), tells the ledger what comes and goes, and mends answers
// that differ from the specification.
type front struct {
	app      http.Handler
	prefix   string
	registry distribution.Namespace
	driver   driver.StorageDriver
	ledger   *sweep.Ledger // nil without online collection
	upstream *upstream     // of a cache: the registry whose images it stores

	mu sync.Mutex // held while a referrer's record is written or thrown away
	// turns order what happens to a manifest in the storage as it is noted in the
	// ledger. There are many, for a deletion reads all tags of its repository, and
	// few are to wait for that.
	turns [256]sync.Mutex // by the digest's first byte
}

// The addresses that the front looks at. Names may have slashes.
var (
	manifestPath = regexp.MustCompile(`^/v2/(.+)/manifests/([^/]+)$`)
	referrerPath = regexp.MustCompile(`^/v2/(.+)/referrers/([^/]*)$`)
	uploadPath   = regexp.MustCompile(`^/v2/(.+)/blobs/uploads/[^/]*$`)
	blobPath     = regexp.MustCompile(`^/v2/(.+)/blobs/([^/]+)$`)
)

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, strings.TrimSuffix(f.prefix, "/"))
	a := &answer{ResponseWriter: w}
	defer a.end()
	if m := referrerPath.FindStringSubmatch(path); m != nil {
		f.referrers(a, r, m[1], m[2])
		return
	}
	if m := manifestPath.FindStringSubmatch(path); m != nil {
		f.manifest(a, r, m[1], m[2])
		return
	}
	if f.ledger != nil {
		if m := uploadPath.FindStringSubmatch(path); m != nil {
			defer f.upload(a, r, m[1])()
		} else if m := blobPath.FindStringSubmatch(path); m != nil {
			defer f.blob(a, r, m[1], m[2])()
		}
	}
	f.app.ServeHTTP(a, r)
}

// blob keeps a blob that somebody asks for, and notes its deletion.
func (f *front) blob(a *answer, r *http.Request, name, ref string) func() {
	d, err := digest.Parse(ref)
	if err != nil {
		return func() {}
	}
	if r.Method == http.MethodDelete {
		a.on = func(status int) error {
			if status == http.StatusAccepted {
				f.ledger.Unlink(name, d)
			}
			return nil
		}
		return func() {}
	}
	return f.hold(a, d)
}

// hold keeps a blob until the request was answered, and beyond if the answer
// tells of the blob.
func (f *front) hold(a *answer, d digest.Digest) func() {
	release := f.ledger.Hold(d)
	return func() { release(a.status < 400) }
}

// upload keeps the blob that an upload or a mount brings.
func (f *front) upload(a *answer, r *http.Request, name string) func() {
	q := r.URL.Query()
	ref := q.Get("digest")
	if r.Method == http.MethodPost && ref == "" {
		ref = q.Get("mount")
	}
	d, err := digest.Parse(ref)
	if err != nil {
		return func() {}
	}
	a.on = func(status int) error {
		if status == http.StatusCreated {
			stored := d
			if said, err := digest.Parse(a.Header().Get("Docker-Content-Digest")); err == nil {
				stored = said
			}
			f.ledger.Link(name, stored)
		}
		return nil
	}
	return f.hold(a, d)
}

// document is what the front reads of a manifest or index.
type document struct {
	MediaType    string               `json:"mediaType"`
	ArtifactType string               `json:"artifactType"`
	Config       *ocispec.Descriptor  `json:"config"`
	Layers       []ocispec.Descriptor `json:"layers"`
	Manifests    []ocispec.Descriptor `json:"manifests"`
	Subject      *ocispec.Descriptor  `json:"subject"`
	Annotations  map[string]string    `json:"annotations"`
}

// refers lists what it refers to, without what is no digest: the document is
// whatever a client sends, and nobody knows yet who that is.
func (d *document) refers() (list []digest.Digest) {
	all := append(d.Layers[:len(d.Layers):len(d.Layers)], d.Manifests...)
	if d.Config != nil {
		all = append(all, *d.Config)
	}
	for _, one := range all {
		if one.Digest.Validate() == nil {
			list = append(list, one.Digest)
		}
	}
	return list
}

func (f *front) manifest(a *answer, r *http.Request, name, ref string) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		// Who accepts anything, or does not say, gets what there is.
		if accepts := strings.Join(r.Header.Values("Accept"), ","); accepts == "" || strings.Contains(accepts, "*/*") {
			r.Header["Accept"] = []string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex,
				"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
		}
	case http.MethodDelete:
		if d, err := digest.Parse(ref); err == nil && f.ledger != nil {
			defer f.turn(d)()
			a.on = func(status int) error {
				if status == http.StatusAccepted {
					f.ledger.Drop(name, d)
				}
				return nil
			}
		}
	case http.MethodPut:
		if d, err := digest.Parse(ref); err == nil && d.Algorithm() != digest.Canonical {
			a.refuse(http.StatusBadRequest, "UNSUPPORTED", fmt.Sprintf("manifests are kept by their %s, not by %s", digest.Canonical, d.Algorithm()))
			return
		}
		if r.ContentLength > maxManifest {
			a.refuse(http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", fmt.Sprintf("the manifest has more than %d bytes", maxManifest))
			return
		}
		// It is read by the handler, which first finds out who sends it: others'
		// are not kept in memory.
		ends := []func(){}
		defer func() {
			for _, end := range slices.Backward(ends) {
				end()
			}
		}()
		in := http.MaxBytesReader(a, r.Body, maxManifest)
		r.Body = &overheard{ReadCloser: in, a: a, whole: func(body []byte) {
			var doc document
			if json.Unmarshal(body, &doc) != nil {
				return // the handler says what is wrong
			}
			self := digest.FromBytes(body)
			if f.ledger != nil {
				ends = append(ends, f.turn(self))
				release := f.ledger.Hold(append(doc.refers(), self)...)
				ends = append(ends, func() { release(true) })
			}
			a.on = func(status int) error { return f.put(a, r, name, self, body, &doc, status) }
		}}
	}
	f.app.ServeHTTP(a, r)
}

// overheard is the body of a manifest while the handler reads it.
type overheard struct {
	io.ReadCloser
	a     *answer
	seen  bytes.Buffer
	whole func(body []byte) // called once, at its end
}

func (o *overheard) Read(p []byte) (int, error) {
	n, err := o.ReadCloser.Read(p)
	o.seen.Write(p[:n])
	if errors.Is(err, io.EOF) && o.whole != nil {
		o.whole(o.seen.Bytes())
		o.whole = nil
	}
	o.a.large = errors.As(err, new(*http.MaxBytesError))
	return n, err
}

// turn waits until nobody else stores or deletes a manifest with this digest,
// and keeps it so until end is called.
func (f *front) turn(d digest.Digest) (end func()) {
	n, _ := strconv.ParseUint(d.Encoded()[:2], 16, 8) // digests are parsed or computed
	f.turns[n].Lock()
	return f.turns[n].Unlock
}

// put notes a manifest that was stored. The client hears of an error.
func (f *front) put(a *answer, r *http.Request, name string, self digest.Digest, body []byte, doc *document, status int) error {
	if status != http.StatusCreated {
		return nil
	}
	ctx := context.WithoutCancel(r.Context())
	if f.ledger != nil {
		f.ledger.Put(ctx, name, self, doc.refers())
	}
	if doc.Subject == nil || doc.Subject.Digest.Validate() != nil || f.upstream != nil {
		return nil
	}
	kind := doc.MediaType
	if kind == "" {
		kind, _, _ = strings.Cut(r.Header.Get("Content-Type"), ";")
	}
	if err := f.record(ctx, name, doc.Subject.Digest, doc.descriptor(kind, self, int64(len(body)))); err != nil {
		return fmt.Errorf("record the referrer: %w", err)
	}
	a.Header().Set("OCI-Subject", doc.Subject.Digest.String())
	return nil
}

// answer passes a response on. Errors are held back until end, so that their
// codes can be made the specification's.
type answer struct {
	http.ResponseWriter
	on     func(status int) error // called once, before the status is sent
	status int
	large  bool          // what was sent is more than is taken
	held   *bytes.Buffer // the body of an error
}

func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) WriteHeader(status int) {
	if a.status != 0 {
		return
	}
	if a.large {
		status = http.StatusRequestEntityTooLarge
	}
	a.status = status
	if a.on != nil {
		if err := a.on(status); err != nil {
			a.status, a.held = http.StatusInternalServerError, &bytes.Buffer{}
			a.Header().Del("Location")
			a.held.Write(errorBody("UNKNOWN", err.Error()))
			return
		}
	}
	if status >= 400 {
		a.held = &bytes.Buffer{}
		return
	}
	a.ResponseWriter.WriteHeader(status)
}

// maxHeld bounds an error's body.
const maxHeld = 1 << 20

func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if a.held == nil {
		return a.ResponseWriter.Write(b)
	}
	if a.held.Len()+len(b) > maxHeld {
		return 0, io.ErrShortWrite
	}
	return a.held.Write(b)
}

// Flush is for handlers that stream.
func (a *answer) Flush() {
	if f, ok := a.ResponseWriter.(http.Flusher); ok && a.held == nil {
		f.Flush()
	}
}

func errorBody(code, message string) []byte {
	b, err := json.Marshal(map[string]any{"errors": []any{map[string]string{"code": code, "message": message}}})
	if err != nil {
		return nil // text can always be written
	}
	return b
}

func (a *answer) refuse(status int, code, message string) {
	a.Header().Set("Content-Type", "application/json")
	a.WriteHeader(status)
	a.Write(errorBody(code, message)) //nolint:errcheck // it is held
}

// ours are distribution's codes that the specification does not have.
var ours = map[string]string{
	"RANGE_INVALID": "BLOB_UPLOAD_INVALID", "TAG_INVALID": "MANIFEST_INVALID", "MANIFEST_UNVERIFIED": "MANIFEST_INVALID",
	"PAGINATION_NUMBER_INVALID": "UNSUPPORTED", "UNKNOWN": "UNSUPPORTED",
}

// end sends an error.
func (a *answer) end() {
	if a.held == nil {
		return
	}
	body := a.held.Bytes()
	var doc struct {
		Errors []map[string]any `json:"errors"`
	}
	if a.status < 500 && json.Unmarshal(body, &doc) == nil && len(doc.Errors) > 0 {
		for _, e := range doc.Errors {
			code, _ := e["code"].(string)
			if better := ours[code]; better != "" {
				e["code"] = better
			}
		}
		if b, err := json.Marshal(doc); err == nil {
			body = b
		}
	}
	if a.Header().Get("Content-Length") != "" || len(body) > 0 {
		a.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	a.ResponseWriter.WriteHeader(a.status)
	a.ResponseWriter.Write(body) //nolint:errcheck // the client has gone
}
