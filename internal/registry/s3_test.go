package registry

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// bucket is one bucket of a store that speaks S3's REST protocol, as far as
// distribution's driver does: objects, ranges, listings in short pages, uploads
// in parts, copies, deletions by list. It is as strict as the real one where a
// driver could go wrong: signatures are checked, and parts before the last one
// have 5 MB at least.
type bucket struct {
	t   *testing.T
	web *httptest.Server

	mu      sync.Mutex
	objects map[string][]byte
	uploads map[string]*upload
	next    int
	did     map[string]int // how often each operation was asked for
	closed  bool           // refuses everything
}

type upload struct {
	key   string
	parts map[int][]byte
}

const (
	s3Page     = 3 // keys in a page of a listing
	s3Part     = 5 << 20
	s3Access   = "AKIATEST"
	s3Secret   = "not a secret"
	s3Region   = "eu-test-1"
	s3Modified = "2026-01-02T03:04:05.000Z"
)

func newBucket(t *testing.T) *bucket {
	b := &bucket{t: t, objects: map[string][]byte{}, uploads: map[string]*upload{}, did: map[string]int{}}
	b.web = httptest.NewServer(b)
	t.Cleanup(b.web.Close)
	return b
}

func (b *bucket) keys() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.objects))
}

func hmac256(key []byte, s string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(s))
	return h.Sum(nil)
}

// signed tells whether a request has the signature (version 4) of the one
// account, in its header or its address.
func signed(r *http.Request) bool {
	q := r.URL.Query()
	var names, given, date, hash string
	if auth, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 "); ok {
		field := map[string]string{}
		for _, one := range strings.Split(auth, ", ") {
			k, v, _ := strings.Cut(one, "=")
			field[k] = v
		}
		date, hash = r.Header.Get("X-Amz-Date"), r.Header.Get("X-Amz-Content-Sha256")
		names, given = field["SignedHeaders"], field["Signature"]
		if len(date) < 8 || field["Credential"] != s3Access+"/"+date[:8]+"/"+s3Region+"/s3/aws4_request" {
			return false
		}
	} else {
		names, given, date, hash = q.Get("X-Amz-SignedHeaders"), q.Get("X-Amz-Signature"), q.Get("X-Amz-Date"), "UNSIGNED-PAYLOAD"
		q.Del("X-Amz-Signature")
		if len(date) < 8 || q.Get("X-Amz-Credential") != s3Access+"/"+date[:8]+"/"+s3Region+"/s3/aws4_request" {
			return false
		}
	}
	var headers strings.Builder
	for _, name := range strings.Split(names, ";") {
		value := r.Header.Get(name)
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = strconv.FormatInt(r.ContentLength, 10)
		}
		fmt.Fprintf(&headers, "%s:%s\n", name, strings.TrimSpace(value))
	}
	query := strings.ReplaceAll(q.Encode(), "+", "%20")
	request := sha256.Sum256([]byte(strings.Join([]string{r.Method, r.URL.EscapedPath(), query, headers.String(), names, hash}, "\n")))
	scope := date[:8] + "/" + s3Region + "/s3/aws4_request"
	text := "AWS4-HMAC-SHA256\n" + date + "\n" + scope + "\n" + hex.EncodeToString(request[:])
	key := hmac256([]byte("AWS4"+s3Secret), date[:8])
	for _, s := range []string{s3Region, "s3", "aws4_request"} {
		key = hmac256(key, s)
	}
	return hmac.Equal([]byte(hex.EncodeToString(hmac256(key, text))), []byte(given))
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	key, ok := strings.CutPrefix(r.URL.Path, "/images")
	key = strings.TrimPrefix(key, "/")
	switch q := r.URL.Query(); {
	case b.closed:
		fail(w, http.StatusForbidden, "AccessDenied")
	case !ok:
		fail(w, http.StatusNotFound, "NoSuchBucket")
	case !signed(r):
		fail(w, http.StatusForbidden, "SignatureDoesNotMatch")
	case r.Header.Get("X-Amz-Content-Sha256") != "" && strings.Trim(r.Header.Get("X-Amz-Content-Sha256"), "0123456789abcdef") == "" && r.Header.Get("X-Amz-Content-Sha256") != digest.FromBytes(body).Encoded():
		fail(w, http.StatusBadRequest, "XAmzContentSHA256Mismatch")
	case key == "":
		b.onBucket(w, r, q, body)
	case q.Has("uploads") || q.Has("uploadId"):
		b.onUpload(w, r, q, key, body)
	default:
		b.onObject(w, r, key, body)
	}
}

func fail(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, code)
}

func etag(body []byte) string { return fmt.Sprintf(`"%x"`, md5.Sum(body)) }

// say writes a document whose root has that name.
func say(w http.ResponseWriter, root string, v any) {
	w.Header().Set("Content-Type", "application/xml")
	xml.NewEncoder(w).EncodeElement(v, xml.StartElement{Name: xml.Name{Local: root}}) //nolint:errcheck // the client has gone
}

func (b *bucket) onObject(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	b.did[r.Method]++
	switch r.Method {
	case http.MethodPut:
		if from := r.Header.Get("X-Amz-Copy-Source"); from != "" {
			b.did["copy"]++
			if body = b.source(w, from, ""); body == nil {
				return
			}
			b.objects[key] = body
			say(w, "CopyObjectResult", struct{ ETag, LastModified string }{etag(body), s3Modified})
			return
		}
		b.objects[key] = body
		w.Header().Set("ETag", etag(body))
	case http.MethodGet, http.MethodHead:
		content, ok := b.objects[key]
		if !ok {
			fail(w, http.StatusNotFound, "NoSuchKey")
			return
		}
		w.Header().Set("ETag", etag(content))
		modified, _ := time.Parse(time.RFC3339, s3Modified)
		if from, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && from == fmt.Sprintf("%d-", len(content)) {
			fail(w, http.StatusRequestedRangeNotSatisfiable, "InvalidRange")
			return
		}
		http.ServeContent(w, r, "", modified, bytes.NewReader(content))
	case http.MethodDelete:
		delete(b.objects, key)
		w.WriteHeader(http.StatusNoContent)
	}
}

// source is what a copy copies, with a range "bytes=a-b" or all of it.
func (b *bucket) source(w http.ResponseWriter, from, part string) []byte {
	from, _ = url.PathUnescape(from)
	content, ok := b.objects[strings.TrimPrefix(strings.TrimPrefix(from, "/"), "images/")]
	if !ok {
		fail(w, http.StatusNotFound, "NoSuchKey")
		return nil
	}
	if part != "" {
		var first, last int
		if _, err := fmt.Sscanf(part, "bytes=%d-%d", &first, &last); err != nil || first > last || last >= len(content) {
			fail(w, http.StatusBadRequest, "InvalidRange")
			return nil
		}
		content = content[first : last+1]
	}
	return append(make([]byte, 0, len(content)), content...)
}

func (b *bucket) onUpload(w http.ResponseWriter, r *http.Request, q url.Values, key string, body []byte) {
	id := q.Get("uploadId")
	up := b.uploads[id]
	if id == "" {
		b.did["upload"]++
		b.next++
		id = strconv.Itoa(b.next)
		b.uploads[id] = &upload{key, map[int][]byte{}}
		say(w, "InitiateMultipartUploadResult", struct{ Bucket, Key, UploadId string }{"images", key, id})
		return
	}
	if up == nil || up.key != key {
		fail(w, http.StatusNotFound, "NoSuchUpload")
		return
	}
	switch r.Method {
	case http.MethodPut:
		n, _ := strconv.Atoi(q.Get("partNumber"))
		if from := r.Header.Get("X-Amz-Copy-Source"); from != "" {
			b.did["copy part"]++
			if body = b.source(w, from, r.Header.Get("X-Amz-Copy-Source-Range")); body == nil {
				return
			}
			up.parts[n] = body
			say(w, "CopyPartResult", struct{ ETag, LastModified string }{etag(body), s3Modified})
			return
		}
		b.did["part"]++
		up.parts[n] = body
		w.Header().Set("ETag", etag(body))
	case http.MethodGet:
		type part struct {
			PartNumber int
			ETag       string
			Size       int
		}
		var parts []part
		for _, n := range slices.Sorted(maps.Keys(up.parts)) {
			parts = append(parts, part{n, etag(up.parts[n]), len(up.parts[n])})
		}
		say(w, "ListPartsResult", struct {
			Key, UploadId string
			IsTruncated   bool
			Part          []part
		}{key, id, false, parts})
	case http.MethodDelete:
		delete(b.uploads, id)
		w.WriteHeader(http.StatusNoContent)
	case http.MethodPost:
		var doc struct {
			Part []struct {
				PartNumber int
				ETag       string
			}
		}
		if err := xml.Unmarshal(body, &doc); err != nil || len(doc.Part) == 0 {
			fail(w, http.StatusBadRequest, "MalformedXML")
			return
		}
		var all []byte
		for i, p := range doc.Part {
			content, ok := up.parts[p.PartNumber]
			if !ok || etag(content) != p.ETag {
				fail(w, http.StatusBadRequest, "InvalidPart")
				return
			}
			if i < len(doc.Part)-1 && len(content) < s3Part {
				fail(w, http.StatusBadRequest, "EntityTooSmall")
				return
			}
			all = append(all, content...)
		}
		b.objects[key] = all
		delete(b.uploads, id)
		say(w, "CompleteMultipartUploadResult", struct{ Bucket, Key, ETag string }{"images", key, etag(all)})
	}
}

type named struct{ Key string }

func (b *bucket) onBucket(w http.ResponseWriter, r *http.Request, q url.Values, body []byte) {
	switch {
	case q.Has("uploads"):
		type one struct{ Key, UploadId string }
		var list []one
		for _, id := range slices.Sorted(maps.Keys(b.uploads)) {
			if up := b.uploads[id]; strings.HasPrefix(up.key, q.Get("prefix")) {
				list = append(list, one{up.key, id})
			}
		}
		say(w, "ListMultipartUploadsResult", struct {
			IsTruncated bool
			Upload      []one
		}{false, list})
	case q.Has("delete") && r.Method == http.MethodPost:
		b.did["delete"]++
		var doc struct{ Object []named }
		if err := xml.Unmarshal(body, &doc); err != nil {
			fail(w, http.StatusBadRequest, "MalformedXML")
			return
		}
		for _, o := range doc.Object {
			delete(b.objects, o.Key)
		}
		say(w, "DeleteResult", struct{ Deleted []named }{doc.Object})
	case q.Get("list-type") == "2":
		b.list(w, q)
	default:
		fail(w, http.StatusNotImplemented, "NotImplemented")
	}
}

// list answers a page of keys, and of what comes before the delimiter in them.
func (b *bucket) list(w http.ResponseWriter, q url.Values) {
	type object struct {
		Key, LastModified, ETag string
		Size                    int
	}
	type prefix struct{ Prefix string }
	var doc struct {
		Name, Prefix          string
		KeyCount, MaxKeys     int
		IsTruncated           bool
		NextContinuationToken string `xml:",omitempty"`
		Contents              []object
		CommonPrefixes        []prefix
	}
	doc.Name, doc.Prefix, doc.MaxKeys = "images", q.Get("prefix"), s3Page
	if n, err := strconv.Atoi(q.Get("max-keys")); err == nil {
		doc.MaxKeys = min(n, s3Page)
	}
	after := max(q.Get("start-after"), q.Get("continuation-token"))
	last := ""
	for _, key := range slices.Sorted(maps.Keys(b.objects)) {
		rest, ok := strings.CutPrefix(key, doc.Prefix)
		if !ok {
			continue
		}
		group := ""
		if d := q.Get("delimiter"); d != "" {
			if before, _, ok := strings.Cut(rest, d); ok {
				group = doc.Prefix + before + d
			}
		}
		if key <= after || group != "" && (group == last || strings.HasPrefix(after, group)) {
			continue
		}
		if doc.KeyCount == doc.MaxKeys {
			doc.IsTruncated, doc.NextContinuationToken = true, last
			break
		}
		doc.KeyCount++
		if last = key; group != "" {
			last = group
			doc.CommonPrefixes = append(doc.CommonPrefixes, prefix{group})
			continue
		}
		doc.Contents = append(doc.Contents, object{key, s3Modified, etag(b.objects[key]), len(b.objects[key])})
	}
	say(w, "ListBucketResult", doc)
}

// config writes the configuration file for the bucket.
func (b *bucket) config(more string) string {
	b.t.Helper()
	file := filepath.Join(b.t.TempDir(), "config.yml")
	text := fmt.Sprintf(`version: 0.1
storage:
  s3:
    bucket: images
    region: %s
    regionendpoint: %s
    accesskey: %s
    secretkey: %s
    forcepathstyle: true
    secure: false
    rootdirectory: /deep/down
    chunksize: 5242880
    multipartcopychunksize: 5242880
    multipartcopythresholdsize: 6291456
%s`, s3Region, b.web.URL, s3Access, s3Secret, more)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return file
}

// TestS3 pushes to, pulls from, deletes in and cleans a registry whose images
// are in an S3-compatible store.
func TestS3(t *testing.T) {
	store := newBucket(t)
	s := serve(t, Options{File: store.config(""), Delete: true})
	if s.front.ledger != nil {
		t.Error("a bucket that others may write to is cleaned without being asked")
	}
	// A layer that goes through in parts and is moved in parts.
	large := bytes.Repeat([]byte("0123456789abcdef"), 12<<20/16)
	m := s.image("x/y", "v1", string(large))
	m2 := s.image("x/y", "v2", "small")
	if store.did["part"] < 2 || store.did["copy part"] < 2 || store.did["copy"] == 0 {
		t.Errorf("not in parts: %v", store.did)
	}
	other := s.image("z", "v1", "small")
	for _, layer := range [][]byte{large, []byte("small")} {
		at := "/v2/x/y/blobs/" + digest.FromBytes(layer).String()
		// The client is sent to the store, with an address that is good for this blob.
		if r := s.want(s.do("GET", at, nil), 200); !bytes.Equal(r.body, layer) || r.Request.URL.Host != strings.TrimPrefix(store.web.URL, "http://") {
			t.Errorf("%d of %d bytes, from %s", len(r.body), len(layer), r.Request.URL.Host)
		}
		if r := s.want(s.do("GET", at, nil, "Range", "bytes=2-4"), 206); !bytes.Equal(r.body, layer[2:5]) {
			t.Errorf("range: %q", r.body)
		}
	}
	// Chunks that are smaller than a part of the store's.
	chunks := []byte("in three chunks")
	at := s.location(s.want(s.do("POST", "/v2/z/blobs/uploads/", nil), 202))
	for from := 0; from < len(chunks); from += 5 {
		at = s.location(s.want(s.do("PATCH", at, chunks[from:from+5], "Content-Type", octets, "Content-Range", fmt.Sprintf("%d-%d", from, from+4)), 202))
	}
	s.want(s.do("PUT", withDigest(at, digest.FromBytes(chunks)), nil), 201)
	s.want(s.do("POST", "/v2/x/y/blobs/uploads/?mount="+digest.FromBytes(chunks).String()+"&from=z", nil), 201)
	// A wrong digest and a cancelled upload leave nothing behind but the session's files.
	at = s.location(s.want(s.do("POST", "/v2/z/blobs/uploads/", nil), 202))
	s.want(s.do("PUT", withDigest(at, digest.FromString("other")), []byte("this"), "Content-Type", octets), 400)
	at = s.location(s.want(s.do("POST", "/v2/z/blobs/uploads/", nil), 202))
	s.want(s.do("DELETE", at, nil), 204)
	if r := s.want(s.do("GET", "/v2/x/y/tags/list", nil), 200); !strings.Contains(string(r.body), `"tags":["v1","v2"]`) {
		t.Errorf("tags %s", r.body)
	}
	if r := s.want(s.do("GET", "/v2/_catalog", nil), 200); !strings.Contains(string(r.body), `"repositories":["x/y","z"]`) {
		t.Errorf("catalogue %s", r.body)
	}
	// A store that lets nobody in is the server's error: not "no such image".
	closed := func(yes bool) {
		store.mu.Lock()
		defer store.mu.Unlock()
		store.closed = yes
	}
	closed(true)
	for _, at := range []string{"/v2/z/manifests/v1", "/v2/z/manifests/" + other.Digest.String(), "/v2/z/blobs/" + digest.FromString("small").String()} {
		if r := s.do("GET", at, nil); r.StatusCode < 500 {
			t.Errorf("%s without its store: %s %s", at, r.Status, r.body)
		}
	}
	closed(false)

	blobs := func() (n int) {
		for _, key := range store.keys() {
			if !strings.HasPrefix(key, "deep/down/docker/registry/v2/") {
				t.Errorf("outside of the root: %s", key)
			}
			if strings.Contains(key, "/blobs/sha256/") && strings.HasSuffix(key, "/data") {
				n++
			}
		}
		return n
	}
	if n := blobs(); n != 7 { // two manifests, two configurations, two layers, and that of the chunks
		t.Errorf("%d blobs in:\n%s", n, strings.Join(store.keys(), "\n"))
	}
	if m2.Digest != other.Digest {
		t.Errorf("the same image has the digests %s and %s", m2.Digest, other.Digest)
	}
	s.want(s.do("DELETE", "/v2/x/y/manifests/"+m.Digest.String(), nil), 202)
	s.want(s.do("GET", "/v2/x/y/manifests/v1", nil), 404)
	s.close()

	// Offline: first only told, then done.
	before := blobs()
	file := store.config("")
	var told bytes.Buffer
	if err := Collect(t.Context(), Options{File: file}, true, false, &told); err != nil || blobs() != before || !strings.HasSuffix(told.String(), "\n4 blobs eligible for deletion\n") {
		t.Errorf("a dry run: %v, %d of %d blobs left, said %s", err, blobs(), before, told.String())
	}
	if err := Collect(t.Context(), Options{File: file}, false, false, io.Discard); err != nil {
		t.Fatal(err)
	}
	if n := blobs(); n != 3 {
		t.Errorf("%d blobs left of the image that stayed", n)
	}
	// Online, by one that was told that nobody else writes.
	s = serve(t, Options{File: store.config("  redirect: {disable: true}\n"), Delete: true, GC: "on"})
	s.load()
	if r := s.want(s.do("GET", "/v2/z/blobs/"+digest.FromString("small").String(), nil), 200); string(r.body) != "small" || r.Request.URL.Host != strings.TrimPrefix(s.url, "http://") {
		t.Errorf("%q from %s, though redirects are off", r.body, r.Request.URL.Host)
	}
	s.want(s.do("DELETE", "/v2/x/y/manifests/"+m2.Digest.String(), nil), 202)
	if n := s.sweep(0); n != 0 {
		t.Errorf("%d blobs of an image removed that another repository has", n)
	}
	s.want(s.do("DELETE", "/v2/z/manifests/"+other.Digest.String(), nil), 202)
	if n := s.sweep(0); n != 3 || blobs() != 0 {
		t.Errorf("%d blobs removed, %d left", n, blobs())
	}
}

// TestS3Refuses: what is wrong with the store is said at the start.
func TestS3Refuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yml")
	for text, want := range map[string]string{
		"version: 0.1\nstorage:\n  s3: {region: eu-test-1, regionendpoint: 'http://127.0.0.1:1'}\n":                                  "no bucket parameter provided",
		"version: 0.1\nstorage:\n  s3: {bucket: images, regionendpoint: 'http://127.0.0.1:1', region: eu-test-1, chunksize: 1000}\n": "the chunksize 1000 parameter should be",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		o := Options{File: file}
		c, err := settings(o)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := open(t.Context(), o, c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
