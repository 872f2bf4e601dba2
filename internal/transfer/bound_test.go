package transfer

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/transfer/login"
)

// TestRefreshToken: a token server may send its client elsewhere, but not with
// the refresh token, which is in the body that such a redirect repeats.
func TestRefreshToken(t *testing.T) {
	f, b := newFake(t), newBench(t, Config{})
	f.image("x", "latest", picture{layers: []int{100}})
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		t.Errorf("it was sent on: %s %s", r.URL, body)
	}))
	t.Cleanup(other.Close)
	elsewhere := true
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Path == "/token" && elsewhere:
			http.Redirect(w, r, other.URL+"/token", http.StatusTemporaryRedirect)
		case r.URL.Path == "/token":
			http.Redirect(w, r, "/token2", http.StatusTemporaryRedirect)
		case r.URL.Path == "/token2":
			if r.FormValue("refresh_token") != secret {
				t.Errorf("the token server got %v", r.Form)
			}
			fmt.Fprint(w, `{"access_token":"the-token"}`)
		case r.Header.Get("Authorization") != "Bearer the-token":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="fake"`, f.URL))
			sayError(w, 401, "UNAUTHORIZED", "authentication required")
		default:
			return false
		}
		return true
	}
	creds := login.Credentials{Refresh: secret}
	list, err := b.remotes(f.host(), "x", "pull", creds)
	if err != nil {
		t.Fatal(err)
	}
	plain := list[len(list)-1]
	if _, err := plain.manifest(t.Context(), "latest", ocispec.Descriptor{}); err == nil || !strings.Contains(err.Error(), "refusing to send a refresh token on to "+other.URL) {
		t.Error(err)
	}
	elsewhere = false
	if _, err := plain.manifest(t.Context(), "latest", ocispec.Descriptor{}); err != nil {
		t.Error(err)
	}
}

// TestPushGetsNowhere: a registry that takes chunk after chunk and always says
// that it has nothing, or more than there is, does not keep a push for ever.
func TestPushGetsNowhere(t *testing.T) {
	for said, want := range map[string]string{"0-0": "does not get beyond 0 bytes", "0-99999999": `invalid Range "0-99999999"`} {
		t.Run(said, func(t *testing.T) {
			f, b := newFake(t), newBench(t, Config{MaxAttempts: 3})
			f.image("x", "latest", picture{layers: []int{9 << 20}})
			if _, err := b.pull(f.host() + "/x:latest"); err != nil {
				t.Fatal(err)
			}
			to := newFake(t)
			chunks := 0
			to.before = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/blobs/uploads/") {
					return false
				}
				io.Copy(io.Discard, r.Body) //nolint:errcheck // it is not wanted
				if r.Method == http.MethodPatch {
					chunks++
					w.Header().Set("Range", said)
				}
				if r.Method == http.MethodPut {
					w.WriteHeader(http.StatusCreated)
					return true
				}
				w.Header().Set("Location", "/v2/x/blobs/uploads/1")
				w.WriteHeader(http.StatusAccepted)
				return true
			}
			if err := b.store.Tag(context.Background(), f.host()+"/x:latest", to.host()+"/x:latest"); err != nil {
				t.Fatal(err)
			}
			_, err := b.push(to.host()+"/x:latest", "")
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), to.host()+"/x") {
				t.Error(err)
			}
			if chunks == 0 || chunks > 4 {
				t.Errorf("%d chunks were sent", chunks)
			}
		})
	}
}

// TestLongLists: what a registry lists, attestations and tags, has an end here.
func TestLongLists(t *testing.T) {
	f, b := newFake(t), newBench(t, Config{})
	amd := f.image("x", "", picture{layers: []int{100}})
	amd.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{amd}}
	idx.SchemaVersion = 2
	for range maxAttestations + 1 {
		said := amd
		said.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
		said.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": amd.Digest.String()}
		idx.Manifests = append(idx.Manifests, said)
	}
	f.put("x", "latest", idx, idx.MediaType)
	if _, err := b.pull(f.host() + "/x:latest"); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "101 attestations of one manifest, more than 100") {
		t.Error(err)
	}
	b.nothing(f.host() + "/x:latest")
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/tags/list") {
			fmt.Fprintf(w, `{"tags":[%s"z"]}`, strings.Repeat(`"a",`, maxTags))
			return true
		}
		return false
	}
	if _, err := b.pull(f.host() + "/x"); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "x has more than 100000 tags") {
		t.Error(err)
	}
}
