package transfer

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestStops: a registry, or its token server, that begins an answer and does not
// go on ends the pull, wherever that is.
func TestStops(t *testing.T) {
	for name, c := range map[string]struct {
		at     string // part of the path
		status int
		header string // WWW-Authenticate
		want   string
	}{
		"manifest": {at: "/manifests/", status: 200, want: "no data came for a while"},
		"config":   {at: "/blobs/", status: 200, want: "no data came for a while"},
		"refusal":  {at: "/manifests/", status: 403, want: "pull access denied"},
		"broken":   {at: "/manifests/", status: 500, want: "500 Internal Server Error"},
		"asks":     {at: "/manifests/", status: 401, header: `Bearer realm="URL/token",service="x"`, want: "token server"},
		"token":    {at: "/token", status: 200, want: "no data came for a while"},
	} {
		t.Run(name, func(t *testing.T) {
			f, b := newFake(t), newBench(t, Config{MaxAttempts: 1})
			b.set.Load().agents.Idle = 200 * time.Millisecond
			f.image("x", "latest", picture{})
			over := make(chan struct{})
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				if name == "token" && !strings.Contains(r.URL.Path, "/token") {
					w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q", f.URL+"/token"))
					sayError(w, 401, "UNAUTHORIZED", "authentication required")
					return true
				}
				if !strings.Contains(r.URL.Path, c.at) {
					return false
				}
				if c.header != "" {
					w.Header().Set("WWW-Authenticate", strings.ReplaceAll(c.header, "URL", f.URL))
				}
				w.WriteHeader(c.status)
				io.WriteString(w, `{"errors":[`)
				http.NewResponseController(w).Flush()
				<-over
				return true
			}
			t.Cleanup(func() { close(over) }) // before the server closes
			_, err := b.pull(f.host() + "/x:latest")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			b.nothing(f.host() + "/x:latest")
		})
	}
}
