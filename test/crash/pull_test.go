package crash

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
	"github.com/wherry-engine/wherry/test/promise"
)

// pullOnce asks for a pull and returns whether it came to its end.
func pullOnce(e *harness.Engine, ref string) (string, bool) {
	name, tag, _ := strings.Cut(ref, "@")
	code, body, err := e.API("POST", "/images/create?fromImage="+name+"&tag="+tag, nil)
	if err != nil || code != 200 {
		return fmt.Sprint(code, string(body), err), false
	}
	return string(body), bytes.Contains(body, []byte("Status: "))
}

// counted stands before a registry in the engine's network and counts what it
// hands out of blobs. Kernel buffers are small there: what lies in them when the
// engine is killed was fetched in vain.
func counted(t *testing.T, e *harness.Engine, registry string) (host string, bytes *atomic.Int64) {
	t.Helper()
	var listener net.Listener
	err := e.Within(func() (err error) {
		for _, name := range []string{"tcp_rmem", "tcp_wmem"} {
			if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte("4096 16384 32768"), 0); err != nil {
				return err
			}
		}
		listener, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	bytes = &atomic.Int64{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: registry})
	proxy.Transport = &http.Transport{DialContext: e.Dial}
	proxy.ErrorLog = log.New(io.Discard, "", 0) // clients that are killed go in the middle of an answer
	server := &http.Server{ErrorLog: proxy.ErrorLog, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			w = &counter{w, bytes}
		}
		defer func() { recover() }() // the proxy's way to say that the client is gone
		proxy.ServeHTTP(w, r)
	})}
	go server.Serve(listener) //nolint:errcheck // until it is closed
	t.Cleanup(func() { server.Close() })
	return listener.Addr().String(), bytes
}

type counter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// TestPullKilled kills the engine at random moments of pulls of an image from
// a registry: the store opens each time, the pull goes on where it was, its image
// runs, and when it is removed nothing of it stays.
func TestPullKilled(t *testing.T) {
	for _, driver := range []string{"overlay2", "vfs"} {
		t.Run(driver, func(t *testing.T) { pullKilled(t, driver) })
	}
}

func pullKilled(t *testing.T, driver string) {
	harness.Require(t, "engine", "busybox")
	if _, err := os.Stat(harness.Binary("wherry-registry")); err != nil {
		promise.Lacks(t, "engine", "bin/wherry-registry is not built")
	}
	chance := harness.Chance(t)
	e := harness.Run(t, harness.Options{Flags: []string{"--bridge", "none", "--storage-driver", driver}})
	registry := e.ServeRegistry(t, "127.0.0.1:0")
	host, fetched := counted(t, e, registry)
	big := &harness.Image{Names: []string{registry + "/big:v1"}, Config: harness.Config{Entrypoint: []string{"/x"}}}
	for i, size := range []int{60 << 20, 30 << 20, 10 << 20} {
		big.Layers = append(big.Layers, []harness.File{{Name: fmt.Sprint("file", i), Mode: 0o644, Data: harness.Noise(byte(i), size)}})
	}
	if err := e.Load(big.DockerArchive()); err != nil {
		t.Fatal(err)
	}
	must := func(method, path string) []byte {
		t.Helper()
		code, body, err := e.API(method, path, nil)
		if err != nil || code != 200 || bytes.Contains(body, []byte("errorDetail")) {
			t.Fatal(method, path, code, string(body), err)
		}
		return body
	}
	must("POST", "/images/"+registry+"/big/push?tag=v1")
	prune := func() { t.Helper(); must("POST", `/images/prune?filters={"dangling":["false"]}`) }
	prune()
	empty := usage(t, e)
	begin := time.Now()
	if answer, ok := pullOnce(e, host+"/big@v1"); !ok {
		t.Fatal(answer)
	}
	took, size := time.Since(begin), fetched.Swap(0)
	killed, cut, whole := 0, 0, 0
	for prune(); killed < 20; killed++ {
		before := fetched.Load()
		var answer string
		var ended bool
		var wg sync.WaitGroup
		wg.Go(func() { answer, ended = pullOnce(e, host+"/big@v1") })
		time.Sleep(time.Duration(chance.Int64N(int64(took)/16 + 1))) // the moment is the test's input
		e.Kill()
		wg.Wait()
		if now := fetched.Load(); now > before && now < size {
			cut++
		}
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
		if ended {
			whole++
			if code, _, err := e.API("GET", "/images/"+host+"/big:v1/json", nil); err != nil || code != 200 {
				t.Fatalf("a pull that was answered is lost: %s", answer)
			}
		}
	}
	if answer, ok := pullOnce(e, host+"/big@v1"); !ok {
		t.Fatal(answer)
	}
	t.Logf("%d kills, %d of them in a download, %d after the end; %d bytes fetched of %d: %.3f", killed, cut, whole, fetched.Load(), size, float64(fetched.Load())/float64(size))
	if cut == 0 {
		t.Error("no download was ever cut")
	}
	if got := fetched.Load(); float64(got) > 1.05*float64(size) {
		t.Errorf("fetched %d bytes of an image of %d", got, size)
	}
	if n, err := e.CheckImages(); n != 1 || err != nil {
		t.Errorf("%d images: %v", n, err)
	}
	prune()
	if now := usage(t, e); now > empty+64<<10 {
		t.Errorf("%d bytes before, %d after %d kills", empty, now, killed)
	}
}

// usage is what the blobs and layers of an engine take.
func usage(t *testing.T, e *harness.Engine) (n int64) {
	t.Helper()
	for _, dir := range []string{"content/blobs", "content/ingest", "layers/snapshots"} {
		err := filepath.Walk(filepath.Join(e.DataRoot(), dir), func(_ string, info os.FileInfo, err error) error {
			if err == nil && info.Mode().IsRegular() {
				n += info.Size()
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return n
}
