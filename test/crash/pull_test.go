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
	"slices"
	"strings"
	"sync"
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
func counted(t *testing.T, e *harness.Engine, registry string) (host string, blobs *counter) {
	t.Helper()
	blobs = &counter{}
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
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: registry})
	proxy.Transport = &http.Transport{DialContext: e.Dial}
	proxy.ErrorLog = log.New(io.Discard, "", 0) // clients that are killed go in the middle of an answer
	server := &http.Server{ErrorLog: proxy.ErrorLog, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			w = &counting{w, blobs}
		}
		defer func() { recover() }() // the proxy's way to say that the client is gone
		proxy.ServeHTTP(w, r)
	})}
	go server.Serve(listener) //nolint:errcheck // until it is closed
	t.Cleanup(func() { server.Close() })
	return listener.Addr().String(), blobs
}

// counter knows how many bytes passed, and stops when they are so many.
type counter struct {
	mu            sync.Mutex
	n             int64
	goal          int64 // 0 for none
	reached, free chan struct{}
}

// stop lets nothing pass any more once goal bytes have passed in all, which closes
// reached, until free is called.
func (c *counter) stop(goal int64) (reached <-chan struct{}, free func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.goal, c.reached, c.free = max(goal, 1), make(chan struct{}), make(chan struct{})
	return c.reached, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.goal = 0
		close(c.free)
	}
}

func (c *counter) add(n int64) (total int64) {
	c.mu.Lock()
	c.n += n
	total, free := c.n, c.free
	full := c.goal > 0 && c.n >= c.goal
	if full && c.reached != nil {
		close(c.reached)
		c.reached = nil
	}
	c.mu.Unlock()
	if full && n > 0 {
		<-free
	}
	return total
}

type counting struct {
	http.ResponseWriter
	c *counter
}

func (c *counting) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.c.add(int64(n))
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
	took, size := time.Since(begin), fetched.add(0)
	prune()
	fetched.add(-size)
	// 20 places of the download, then moments of the unpacking.
	var places []int64
	for range 20 {
		places = append(places, chance.Int64N(size))
	}
	slices.Sort(places)
	killed, cut, whole := 0, 0, 0
	for ; killed < 26; killed++ {
		var answer string
		var ended bool
		var wg sync.WaitGroup
		over := make(chan struct{})
		wg.Go(func() {
			defer close(over)
			answer, ended = pullOnce(e, host+"/big@v1")
		})
		if killed < len(places) {
			reached, free := fetched.stop(places[killed])
			select {
			case <-reached:
			case <-over:
			}
			e.Kill()
			free()
		} else {
			time.Sleep(time.Duration(chance.Int64N(int64(took)/2 + 1))) // the moment is the test's input
			e.Kill()
		}
		wg.Wait()
		if now := fetched.add(0); now > 0 && now < size {
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
	t.Logf("%d kills, %d of them in a download, %d after the end; %d bytes fetched of %d: %.3f", killed, cut, whole, fetched.add(0), size, float64(fetched.add(0))/float64(size))
	if cut < len(places)-2 { // the last place may be the end
		t.Errorf("only %d downloads were cut", cut)
	}
	if got := fetched.add(0); float64(got) > 1.05*float64(size) {
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
