package crash

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
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

// TestPullKilled kills the engine at random moments of pulls of an image from
// a registry: the store opens each time, the pull goes on, its image runs, and
// when it is removed nothing of it stays.
func TestPullKilled(t *testing.T) {
	harness.Require(t, "engine", "busybox")
	if _, err := os.Stat(harness.Binary("wherry-registry")); err != nil {
		promise.Lacks(t, "engine", "bin/wherry-registry is not built")
	}
	e := harness.Run(t, harness.Options{Flags: []string{"--bridge", "none"}})
	host := e.ServeRegistry(t, "127.0.0.1:0")
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	noise := func(size int) []byte {
		b := make([]byte, size)
		r := rand.NewChaCha8([32]byte{byte(size)})
		r.Read(b)
		return b
	}
	big := &harness.Image{Names: []string{host + "/big:v1"}, Config: harness.Config{Entrypoint: []string{"/x"}}, Layers: [][]harness.File{
		{{Name: "a", Mode: 0o644, Data: noise(20 << 20)}}, {{Name: "b", Mode: 0o644, Data: noise(10 << 20)}}, {{Name: "c", Mode: 0o644, Data: noise(5 << 20)}},
	}}
	if err := e.Load(big.DockerArchive()); err != nil {
		t.Fatal(err)
	}
	if code, body, err := e.API("POST", "/images/"+host+"/big/push?tag=v1", nil); err != nil || code != 200 || bytes.Contains(body, []byte("errorDetail")) {
		t.Fatal(code, string(body), err)
	}
	remove := func() {
		t.Helper()
		if code, body, err := e.API("DELETE", "/images/"+host+"/big:v1", nil); err != nil || code != 200 {
			t.Fatal(code, string(body), err)
		}
		if code, body, err := e.API("POST", "/images/prune", nil); err != nil || code != 200 {
			t.Fatal(code, string(body), err)
		}
	}
	remove()
	empty := usage(t, e)
	killed, whole := 0, 0
	for killed < 12 {
		var answer string
		var ended bool
		var wg sync.WaitGroup
		wg.Go(func() { answer, ended = pullOnce(e, host+"/big@v1") })
		time.Sleep(time.Duration(rand.IntN(250)) * time.Millisecond) // the moment is the test's input
		e.Kill()
		wg.Wait()
		killed++
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
		if ended {
			whole++
			if code, _, err := e.API("GET", "/images/"+host+"/big:v1/json", nil); err != nil || code != 200 {
				t.Fatalf("a pull that was answered is lost: %s", answer)
			}
			remove()
		}
	}
	if answer, ok := pullOnce(e, host+"/big@v1"); !ok {
		t.Fatal(answer)
	}
	code, body, err := e.API("GET", "/images/"+host+"/big:v1/get", nil) // save reads every blob
	if err != nil || code != 200 || len(body) < 35<<20 {
		t.Fatal(code, len(body), err)
	}
	remove()
	if now := usage(t, e); now > empty+64<<10 {
		t.Errorf("%d bytes before, %d after %d kills and %d whole pulls", empty, now, killed, whole)
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
