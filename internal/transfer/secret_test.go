package transfer

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/registry"
)

const secret = "hunter2-secret"

func authHeader(user, password string) string {
	return base64.URLEncoding.EncodeToString([]byte(fmt.Sprintf(`{"username":%q,"password":%q}`, user, password)))
}

// spy is a server that must not see anything secret.
func spy(t *testing.T, next http.Handler) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dump := fmt.Sprint(r.URL, r.Header)
		if strings.Contains(dump, secret) || strings.Contains(dump, "the-token") || r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" {
			t.Errorf("a secret went to another server: %s", dump)
		}
		if next != nil {
			next.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// guarded lets a fake ask for a bearer token, which it gives out itself.
func guarded(f *fake, then func(w http.ResponseWriter, r *http.Request) bool) {
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			user, pass, _ := r.BasicAuth()
			if user != "" && (user != "me" || pass != secret) {
				sayError(w, 401, "UNAUTHORIZED", "incorrect username or password")
				return true
			}
			fmt.Fprintf(w, `{"token":"the-token","expires_in":300}`)
			return true
		}
		if r.Header.Get("Authorization") != "Bearer the-token" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="fake",scope="repository:x:pull"`, f.URL))
			sayError(w, 401, "UNAUTHORIZED", "authentication required")
			return true
		}
		return then != nil && then(w, r)
	}
}

func TestBearer(t *testing.T) {
	f, b := newFake(t), newBench(t, Config{})
	f.image("x", "latest", picture{layers: []int{100, 100}})
	guarded(f, nil)
	if _, err := b.pullAs(f.host()+"/x:latest", "", authHeader("me", secret)); err != nil {
		t.Fatal(err)
	}
	if n := len(f.requests("/token")); n != 1 {
		t.Errorf("%d tokens asked for", n)
	}
	if q := f.requests("/token")[0].URL.Query(); q.Get("scope") != "repository:x:pull" || q.Get("service") != "fake" || q.Get("account") != "me" {
		t.Errorf("asked with %v", q)
	}
	_, err := b.pullAs(f.host()+"/x:latest", "", authHeader("me", "wrong"))
	if err == nil || !strings.Contains(err.Error(), "unauthorized: incorrect username or password") {
		t.Error(err)
	}
}

// TestCVE_2020_15157: no redirect of a blob takes the token along.
func TestCVE_2020_15157(t *testing.T) {
	f, b := newFake(t), newBench(t, Config{})
	f.image("x", "latest", picture{layers: []int{100}})
	other := spy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		body := f.blobs[strings.TrimPrefix(r.URL.Path, "/store/")]
		f.mu.Unlock()
		w.Write(body)
	}))
	guarded(f, func(w http.ResponseWriter, r *http.Request) bool {
		_, name, ok := strings.Cut(r.URL.Path, "/blobs/")
		if ok {
			http.Redirect(w, r, other.URL+"/store/"+name, http.StatusTemporaryRedirect)
		}
		return ok
	})
	if _, err := b.pullAs(f.host()+"/x:latest", "", authHeader("me", secret)); err != nil {
		t.Fatal(err)
	}
	b.verify(f.host() + "/x")
}

// TestChallengeOfAnother: where a redirect leads may ask for credentials as
// often as it likes.
func TestChallengeOfAnother(t *testing.T) {
	f, b := newFake(t), newBench(t, Config{})
	f.image("x", "latest", picture{layers: []int{100}})
	var other *httptest.Server
	other = spy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+other.URL+`/token",service="evil"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	guarded(f, func(w http.ResponseWriter, r *http.Request) bool {
		_, name, ok := strings.Cut(r.URL.Path, "/blobs/")
		if ok {
			http.Redirect(w, r, other.URL+"/"+name, http.StatusTemporaryRedirect)
		}
		return ok
	})
	if _, err := b.pullAs(f.host()+"/x:latest", "", authHeader("me", secret)); err == nil {
		t.Error("no error")
	}
}

// TestMetadataService: a redirect to a link-local address is not followed.
func TestMetadataService(t *testing.T) {
	f, b := newFake(t), newBench(t, Config{MaxAttempts: 1})
	f.image("x", "latest", picture{layers: []int{100}})
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data", http.StatusFound)
			return true
		}
		return false
	}
	_, err := b.pull(f.host() + "/x:latest")
	if err == nil || !strings.Contains(err.Error(), "refusing to connect to the link-local address") {
		t.Error(err)
	}
}

func TestLogin(t *testing.T) {
	f := newFake(t)
	c, err := New(Options{UserAgent: "test"}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	guarded(f, nil)
	r, err := c.Login(t.Context(), registry.AuthConfig{Username: "me", Password: secret, ServerAddress: f.host()})
	if err != nil || r.Status != "Login Succeeded" {
		t.Error(r, err)
	}
	if _, err = c.Login(t.Context(), registry.AuthConfig{Username: "me", Password: "no", ServerAddress: f.host()}); err == nil || !strings.Contains(err.Error(), "unauthorized: incorrect username or password") {
		t.Error(err)
	}
}
