package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/system"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/httpapi/older"
	imagestore "github.com/wherry-engine/wherry/internal/image"
)

type fakeImages struct {
	Images
	load   func(r io.Reader, quiet bool, progress func(jsonstream.Message)) error
	save   func(names []string, w io.Writer) error
	imp    func(tar, ref, message string, changes []string, platform string) error
	tagged string
}

func (f *fakeImages) Load(_ context.Context, r io.Reader, quiet bool, _ []ocispec.Platform, p func(jsonstream.Message)) error {
	return f.load(r, quiet, p)
}
func (f *fakeImages) Save(_ context.Context, names []string, _ []ocispec.Platform, w io.Writer) error {
	return f.save(names, w)
}
func (f *fakeImages) Import(_ context.Context, r io.Reader, ref, message string, changes []string, platform string) (digest.Digest, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	return digest.FromBytes(data), f.imp(string(data), ref, message, changes, platform)
}
func (f *fakeImages) Tag(_ context.Context, source, target string) error {
	f.tagged = source + " " + target
	return nil
}
func (f *fakeImages) Inspect(_ context.Context, ref string, _ *ocispec.Platform, _ bool) (*imagestore.Inspection, error) {
	if ref == "here:latest" || ref == "a" {
		return &imagestore.Inspection{Parent: "sha256:0", Origin: func() (imagestore.Origin, error) { return imagestore.Origin{Container: "c1"}, nil }, InspectResponse: image.InspectResponse{ID: "sha256:1", Size: 5}}, nil
	}
	return nil, errdefs.ErrNotFound.WithMessage("No such image: " + ref)
}
func (f *fakeImages) List(context.Context, imagestore.ListOptions) ([]*image.Summary, error) {
	return []*image.Summary{{ID: "sha256:1", Size: 5, Containers: 3}}, nil
}

func TestLoad(t *testing.T) {
	f := &fakeImages{load: func(r io.Reader, quiet bool, p func(jsonstream.Message)) error {
		data, err := io.ReadAll(r)
		if string(data) == "bad" {
			return errors.New("not a tar")
		}
		if string(data) == "half" {
			p(jsonstream.Message{Status: "Loading layer", Progress: &jsonstream.Progress{Current: 1, Total: 2}})
			return err
		}
		p(jsonstream.Message{Stream: fmt.Sprint("Loaded image: a:latest ", quiet)})
		if string(data) == "torn" {
			return errors.New("torn")
		}
		return err
	}}
	s, _ := newServer(t, Backends{Images: f})
	for body, want := range map[string]string{
		"good": `{"stream":"Loaded image: a:latest true"}` + "\r\n",
		"torn": `{"stream":"Loaded image: a:latest true"}` + "\r\n" + `{"error":"torn","errorDetail":{"message":"torn"}}` + "\r\n",
		"half": `{"status":"Loading layer","progressDetail":{"current":1,"total":2}}` + "\r\n",
		"bad":  `{"error":"not a tar","errorDetail":{"message":"not a tar"}}` + "\r\n",
	} {
		if w := do(s, "POST", "/images/load", body); w.Code != 200 || w.Body.String() != want || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %q", body, w.Code, w.Body)
		}
	}
	if w := do(s, "POST", "/images/load?quiet=0", "good"); !strings.Contains(w.Body.String(), "false") {
		t.Errorf("%s", w.Body)
	}
	if w := do(s, "POST", "/v1.51/images/load", "half"); !strings.Contains(w.Body.String(), `"progress":"[=========================>                         ]       1B/2B"`) {
		t.Errorf("a client of 1.51 sees no bar: %s", w.Body)
	}
}

func TestSaveThatBreaksIsNoWholeAnswer(t *testing.T) {
	f := &fakeImages{save: func(names []string, w io.Writer) error {
		if names[0] == "none" {
			return errdefs.ErrNotFound.WithMessage("No such image: none")
		}
		fmt.Fprint(w, strings.Join(names, " "))
		if names[0] == "torn" {
			return errors.New("torn")
		}
		return nil
	}}
	s, _ := newServer(t, Backends{Images: f})
	srv := httptest.NewServer(s)
	defer srv.Close()
	for path, want := range map[string]string{
		"/images/get?names=a&names=b":    "200 application/x-tar a b <nil>",
		"/images/repo/a:tag/get":         "200 application/x-tar repo/a:tag <nil>",
		"/images/none/get":               `404 application/json {"message":"No such image: none"}` + "\n <nil>",
		"/images/get?names=torn&names=b": "torn",
	} {
		resp, err := http.Get(srv.URL + path)
		if err != nil {
			if want != "torn" {
				t.Errorf("%s: %v", path, err)
			}
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		got := fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Content-Type"), " ", string(body), " ", err)
		if want == "torn" && err == nil || want != "torn" && got != want {
			t.Errorf("%s: %s", path, got)
		}
	}
}

func TestImport(t *testing.T) {
	var got string
	f := &fakeImages{imp: func(tar, ref, message string, changes []string, platform string) error {
		got = fmt.Sprint(tar, "|", ref, "|", message, "|", changes, "|", platform)
		return nil
	}}
	s, _ := newServer(t, Backends{Images: f})
	w := do(s, "POST", "/images/create?fromSrc=-&repo=reg.io/a&tag=t&changes=CMD+x&changes=ENV+a=b&platform=linux/arm64", "tar")
	if want := "tar|reg.io/a:t|Imported from -|[CMD x ENV a=b]|linux/arm64"; got != want || !strings.Contains(w.Body.String(), `"status":"sha256:`) {
		t.Errorf("%s\n%s", got, w.Body)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/x.tar" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, "web")
	}))
	defer srv.Close()
	w = do(s, "POST", "/images/create?fromSrc="+srv.URL+"/x.tar&repo=a", "")
	if !strings.HasPrefix(got, "web|a:latest|Imported from http") || !strings.Contains(w.Body.String(), "Downloading from http") {
		t.Errorf("%s\n%s", got, w.Body)
	}
	if w := do(s, "POST", "/images/create?fromSrc="+srv.URL+"/no&repo=a", ""); w.Code != 400 || !strings.Contains(w.Body.String(), "404") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := do(s, "POST", "/images/create?fromSrc=-&repo=a@sha256:"+strings.Repeat("0", 64), "tar"); w.Code != 400 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestPullWithoutRegistries(t *testing.T) {
	s, _ := newServer(t, Backends{Images: &fakeImages{}})
	if w := do(s, "POST", "/images/create?fromImage=here&tag=latest", ""); w.Code != 200 || !strings.Contains(w.Body.String(), "no registry was asked: here:latest") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := do(s, "POST", "/images/create?fromImage=gone&tag=1", ""); w.Code != 501 || !strings.Contains(w.Body.String(), "cannot pull gone:1") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := do(s, "POST", "/images/prune", ""); w.Code != 501 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestTag(t *testing.T) {
	f := &fakeImages{}
	s, _ := newServer(t, Backends{Images: f})
	for q, want := range map[string]string{"repo=b": "a b:latest", "repo=b&tag=t": "a b:t", "repo=r.io:5/b/c&tag=t": "a r.io:5/b/c:t", "repo=sha256&tag=t": "", "repo=B": ""} {
		f.tagged = ""
		if w := do(s, "POST", "/images/a/tag?"+q, ""); f.tagged != want || (w.Code == 201) != (want != "") {
			t.Errorf("%s: %d %q", q, w.Code, f.tagged)
		}
	}
}

func TestLegacyImages(t *testing.T) {
	s, _ := newServer(t, Backends{Images: &fakeImages{}})
	for path, want := range map[string][]string{
		"/v1.41/images/json":   {`"VirtualSize":5`, `"<none>:<none>"`, `"Containers":-1`},
		"/images/json":         {`"RepoTags":[]`, `"Containers":3`},
		"/v1.41/images/a/json": {`"VirtualSize":5`, `"Container":"c1"`, `"ContainerConfig":null`, `"Parent":"sha256:0"`, `"Hostname":""`, `"RepoTags":[]`, `"Created":"0001-01-01T00:00:00Z"`},
		"/v1.51/images/a/json": {`"Parent":"sha256:0"`, `"WorkingDir":""`},
	} {
		body := do(s, "GET", path, "").Body.String()
		for _, one := range want {
			if !strings.Contains(body, one) {
				t.Errorf("%s lacks %s: %s", path, one, body)
			}
		}
	}
	if body := do(s, "GET", "/images/a/json", "").Body.String(); strings.Contains(body, "Virtual") || strings.Contains(body, "Parent") {
		t.Error(body)
	}
}

func TestLegacyInfo(t *testing.T) {
	i := &system.Info{FirewallBackend: &system.FirewallInfo{Driver: "nftables"}, RuncCommit: system.Commit{ID: "x"},
		Runtimes: map[string]system.RuntimeWithStatus{"a": {Status: map[string]string{"k": "v"}}}}
	old, err := json.Marshal(older.Info(i, 41))
	if err != nil || strings.Contains(string(old), "nftables") || strings.Contains(string(old), `"k"`) ||
		!strings.Contains(string(old), `"RuncCommit":{"Expected":"x","ID":"x"}`) || !strings.Contains(string(old), `"BridgeNfIptables":false`) {
		t.Errorf("%s %v", old, err)
	}
	now, err := json.Marshal(older.Info(i, int(newest)))
	if err != nil || !strings.Contains(string(now), "nftables") || !strings.Contains(string(now), `"k"`) || strings.Contains(string(now), "Expected") {
		t.Errorf("%s %v", now, err)
	}
}
