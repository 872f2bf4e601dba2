package crash

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// kills is how often TestImagesKilled kills: a few for every change, more when
// WHERRY_KILLS says so.
func kills(t *testing.T) int {
	text := os.Getenv("WHERRY_KILLS")
	if text == "" {
		return 20
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestImagesKilled kills the engine at random moments of pulls, loads, pushes,
// removals and prunes. The store opens each time, every image that is listed is
// whole, and when all are removed the data root holds what a fresh one does.
func TestImagesKilled(t *testing.T) {
	for _, driver := range []string{"overlay2", "vfs"} {
		t.Run(driver, func(t *testing.T) { imagesKilled(t, driver) })
	}
}

func imagesKilled(t *testing.T, driver string) {
	harness.Require(t, "engine", "busybox")
	chance := harness.Chance(t)
	e := harness.Run(t, harness.Options{Flags: []string{"--bridge", "none", "--storage-driver", driver}})
	host := e.ServeRegistry(t, "127.0.0.1:0")
	var none []any
	if err := e.GetJSON("/images/json", &none); err != nil { // the stores are open now
		t.Fatal(err)
	}
	fresh, err := e.StoreFiles()
	if err != nil {
		t.Fatal(err)
	}
	noise := harness.Noise
	image := func(n byte, names ...string) []byte {
		im := &harness.Image{Names: names, Config: harness.Config{Entrypoint: []string{"/x"}}, Layers: [][]harness.File{
			{{Name: "shared", Mode: 0o644, Data: noise(200, 5<<20)}}, {{Name: "a", Mode: 0o644, Data: noise(n, 4<<20)}}, {{Name: "b", Mode: 0o644, Data: noise(n+100, 2<<20)}},
		}}
		b, err := io.ReadAll(im.DockerArchive())
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	one, two := image(1, host+"/one:v1"), image(2, "two:v1")
	must := func(method, path string, body any) []byte {
		t.Helper()
		code, out, err := e.API(method, path, body)
		if err != nil || code >= 300 || bytes.Contains(out, []byte("errorDetail")) {
			t.Fatalf("%s %s: %d %s %v", method, path, code, out, err)
		}
		return out
	}
	load := func(b []byte) { t.Helper(); must("POST", "/images/load", bytes.NewReader(b)) }
	clear := func() {
		t.Helper()
		must("POST", `/images/prune?filters={"dangling":["false"]}`, nil)
	}
	load(one)
	must("POST", "/images/"+host+"/one/push?tag=v1", nil)
	clear()
	pushes := 0
	operations := []struct {
		name    string
		prepare func()
		run     func() string // the request, and its body if it is a load's
		body    []byte
	}{
		{"pull", clear, func() string { return "/images/create?fromImage=" + host + "/one&tag=v1" }, nil},
		{"load", clear, func() string { return "/images/load" }, two},
		{"push", func() {
			load(two)
			pushes++
			must("POST", fmt.Sprintf("/images/two:v1/tag?repo=%s/p%d&tag=v1", host, pushes), nil)
		},
			func() string { return fmt.Sprintf("/images/%s/p%d/push?tag=v1", host, pushes) }, nil},
		{"rmi", func() { clear(); load(two) }, func() string { return "DELETE /images/two:v1?force=1" }, nil},
		{"prune", func() { load(one); load(two) }, func() string { return `/images/prune?filters={"dangling":["false"]}` }, nil},
	}
	ask := func(request string, body []byte) (int, []byte, error) {
		method, path, ok := strings.Cut(request, " ")
		if !ok {
			method, path = "POST", request
		}
		if body != nil {
			return e.API(method, path, bytes.NewReader(body))
		}
		return e.API(method, path, nil)
	}
	took := map[string]time.Duration{}
	for _, o := range operations { // undisturbed, to know how long they take
		o.prepare()
		begin := time.Now()
		if code, out, err := ask(o.run(), o.body); err != nil || code >= 300 {
			t.Fatal(o.name, code, string(out), err)
		}
		took[o.name] = time.Since(begin)
	}
	total, listed := kills(t), 0
	if driver == "vfs" {
		total /= 2
	}
	for i := range total {
		o := operations[i%len(operations)]
		o.prepare()
		request := o.run()
		var wg sync.WaitGroup
		wg.Go(func() { ask(request, o.body) })
		time.Sleep(time.Duration(chance.Int64N(int64(took[o.name]) + 1))) // the moment is the test's input
		e.Kill()
		wg.Wait()
		if err := e.Start(); err != nil {
			t.Fatalf("after a kill in a %s: %v", o.name, err)
		}
		n, err := e.CheckImages()
		if err != nil {
			t.Errorf("after a kill in a %s: %v", o.name, err)
		}
		listed += n
	}
	clear()
	if err := e.Stop(); err != nil { // what is removed in the background is gone then
		t.Fatal(err)
	}
	left, err := e.StoreFiles()
	if err != nil {
		t.Fatal(err)
	}
	for name, size := range left {
		if _, ok := fresh[name]; !ok {
			t.Errorf("left after %d kills: %s, %d bytes", total, name, size)
		}
	}
	if listed == 0 {
		t.Error("no image was ever listed after a kill: nothing was checked")
	}
	t.Logf("%d kills, %d images checked, an undisturbed operation takes %v", total, listed, took)
}
