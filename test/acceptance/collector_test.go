package acceptance

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// crowd is many clients at one engine, each of which removes what others use.
type crowd struct {
	t    *testing.T
	e    *harness.Engine
	host string // of the registry

	counted sync.Map // what happened -> *atomic.Int64
	names   atomic.Int64
}

// images that the registry has; each knows the digests of its files.
const crowdImages = 4

// checked is what a container of such an image runs: whatever was taken away
// from it shows.
const checked = "sha256sum -c -s /sums"

func (c *crowd) count(what string) {
	n, _ := c.counted.LoadOrStore(what, &atomic.Int64{})
	n.(*atomic.Int64).Add(1)
}

// ask makes a request that must succeed, or be refused because somebody has
// removed what it names; it tells whether it did succeed.
func (c *crowd) ask(what, method, path string, body any, may ...int) ([]byte, bool) {
	code, out, err := c.e.API(method, path, body)
	if err != nil {
		c.t.Errorf("%s: %v", what, err)
		return nil, false
	}
	for _, one := range may {
		if code == one {
			c.count(what + fmt.Sprint(" refused with ", code))
			return out, false
		}
	}
	if code >= 300 || bytes.Contains(out, []byte(`"errorDetail"`)) {
		if len(may) > 0 && bytes.Contains(out, []byte("does not exist locally")) {
			c.count(what + " refused")
			return out, false
		}
		c.t.Errorf("%s: %d %.600s", what, code, out)
		return out, false
	}
	c.count(what)
	return out, true
}

func (c *crowd) image(r *rand.Rand) string {
	return fmt.Sprintf("%s/img%d", c.host, r.IntN(crowdImages))
}

// run makes a container, lets it check its files, and removes it.
func (c *crowd) run(what, image string) {
	name := fmt.Sprint("box", c.names.Add(1))
	if _, ok := c.ask("create "+what, "POST", "/containers/create?name="+name, map[string]any{"Image": image, "Cmd": []string{"sh", "-c", checked}, "Labels": map[string]string{"keep": ""}, "HostConfig": map[string]any{"NetworkMode": "none"}}, 404); !ok {
		return
	}
	c.finish("run "+what, name)
	c.ask("rm "+what, "DELETE", "/containers/"+name, nil)
}

// finish starts a container and wants it to have found all of its files.
func (c *crowd) finish(what, name string) {
	if _, ok := c.ask(what, "POST", "/containers/"+name+"/start", nil); !ok {
		return
	}
	if code, err := c.e.Wait(name); err != nil || code != 0 {
		_, log, _ := c.e.API("GET", "/containers/"+name+"/logs?stdout=1&stderr=1", nil)
		c.t.Errorf("%s: exit code %d %v: %s", what, code, err, log)
	}
}

func (c *crowd) pull(r *rand.Rand) {
	image := c.image(r)
	if out, ok := c.ask("pull", "POST", "/images/create?tag=1&fromImage="+image, nil); ok && !bytes.Contains(out, []byte("Status: ")) {
		c.t.Errorf("pull of %s: %s", image, out)
	}
	c.run("pulled", image+":1")
}

// dockerfile is a build's, different for each, so that no step comes from the cache.
func (c *crowd) dockerfile(r *rand.Rand) string {
	return fmt.Sprintf("FROM %s:1\nRUN %s && echo %d >/new && sha256sum /new >>/sums\nCOPY context /\n", c.image(r), checked, r.Uint64())
}

// packed is a context as the API of builds takes it.
func packed(files map[string]string) (*bytes.Buffer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, body := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body))}); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, body); err != nil {
			return nil, err
		}
	}
	return &b, w.Close()
}

func (c *crowd) buildClassic(r *rand.Rand) {
	b, err := packed(map[string]string{"Dockerfile": c.dockerfile(r), "context": "context"})
	if err != nil {
		c.t.Error(err)
	}
	tag := fmt.Sprintf("classic%d:1", r.IntN(3))
	if out, ok := c.ask("classic build", "POST", "/build?networkmode=none&t="+tag, b); ok && !bytes.Contains(out, []byte("Successfully built")) {
		c.t.Errorf("classic build: %s", out)
	}
	c.run("classically built", tag)
}

func (c *crowd) build(r *rand.Rand) {
	dir := c.t.TempDir()
	for name, body := range map[string]string{"Dockerfile": c.dockerfile(r), "context": "context"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
			c.t.Error(err)
		}
	}
	tag := fmt.Sprintf("built%d:1", r.IntN(3))
	if _, errOut, code, err := c.e.CLI("build", "-q", "--network", "none", "-t", tag, dir); err != nil || code != 0 {
		c.t.Errorf("build: %d %v %s", code, err, errOut)
		return
	}
	c.count("build")
	c.run("built", tag)
}

func (c *crowd) save(r *rand.Rand) {
	out, ok := c.ask("save", "GET", "/images/"+c.image(r)+":1/get", nil, 404)
	if !ok {
		return
	}
	if n, err := harness.CheckArchive(out); err != nil || n < 4 {
		c.t.Errorf("save: %d blobs, %v", n, err)
	}
}

func (c *crowd) tag(r *rand.Rand) {
	image, name := c.image(r), fmt.Sprintf("%s/tag%d", c.host, c.names.Add(1))
	c.ask("pull", "POST", "/images/create?tag=1&fromImage="+image, nil)
	if _, ok := c.ask("tag", "POST", "/images/"+image+":1/tag?tag=1&repo="+name, nil, 404); !ok {
		return
	}
	if out, ok := c.ask("push", "POST", "/images/"+name+"/push?tag=1", nil, 404); ok && !bytes.Contains(out, []byte("digest: sha256:")) {
		c.t.Errorf("push: %s", out)
	}
	c.ask("untag", "DELETE", "/images/"+name+":1?force=1", nil, 404, 409)
}

func (c *crowd) remove(r *rand.Rand) {
	c.ask("rmi", "DELETE", "/images/"+c.image(r)+":1?force=1", nil, 404, 409)
}

func (c *crowd) commit(r *rand.Rand) {
	tag := fmt.Sprint("commit", r.IntN(2))
	c.ask("commit", "POST", "/commit?container=held&tag=1&repo="+tag, map[string]any{})
	c.run("committed", tag+":1")
}

func (c *crowd) pruneImages(*rand.Rand) {
	c.ask("image prune -a", "POST", `/images/prune?filters={"dangling":["false"]}`, nil)
}

// pruneAll is what `system prune -a` asks for; containers that others make are spared.
func (c *crowd) pruneAll(*rand.Rand) {
	c.ask("container prune", "POST", "/containers/prune?filters="+url.QueryEscape(`{"label!":["keep"]}`), nil)
	c.ask("network prune", "POST", "/networks/prune", nil)
	c.pruneImages(nil)
	c.ask("builder prune", "POST", "/build/prune?all=1", nil)
	c.ask("system df", "GET", "/system/df", nil)
	c.ask("images", "GET", "/images/json?all=1", nil)
}

// TestCollector lets pulls, runs, builds, loads, saves, pushes and commits meet
// removals and prunes, all at once. What is at work loses nothing; what is listed
// afterwards is whole; and when all is removed, nothing is left.
func TestCollector(t *testing.T) {
	harness.Require(t, "busybox")
	chance := harness.Chance(t)
	e := harness.Run(t, harness.Options{Flags: []string{"--bridge", "none"}})
	c := &crowd{t: t, e: e}
	files := func() map[string]int64 {
		t.Helper()
		list, err := e.StoreFiles()
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	c.ask("builder prune", "POST", "/build/prune?all=1", nil) // the stores are open now, the builder's too
	if err := e.Stop(); err != nil {
		t.Fatal(err)
	}
	fresh := files()
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}

	c.host = e.ServeRegistry(t, "127.0.0.1:0")
	var loaded []byte
	for n := range crowdImages {
		im, err := harness.Busybox()
		if err != nil {
			t.Fatal(err)
		}
		shared, own := harness.Noise(200, 1<<20), harness.Noise(byte(n), 1<<20)
		sums := fmt.Sprintf("%x  /shared\n%x  /own\n", sha256.Sum256(shared), sha256.Sum256(own))
		im.Names = []string{fmt.Sprintf("%s/img%d:1", c.host, n)}
		im.Layers = append(im.Layers, []harness.File{{Name: "shared", Mode: 0o644, Data: shared}}, []harness.File{{Name: "own", Mode: 0o644, Data: own}, {Name: "sums", Mode: 0o644, Data: []byte(sums)}})
		var b bytes.Buffer
		if _, err := b.ReadFrom(im.DockerArchive()); err != nil {
			t.Fatal(err)
		}
		if err := e.Load(bytes.NewReader(b.Bytes())); err != nil {
			t.Fatal(err)
		}
		if loaded == nil {
			loaded = b.Bytes()
		}
		c.ask("first push", "POST", fmt.Sprintf("/images/%s/img%d/push?tag=1", c.host, n), nil)
	}
	// One container runs all the time; another is not started, and its image is
	// removed by force: what it stands on stays.
	box := func(name, cmd string) {
		t.Helper()
		c.ask("create", "POST", "/containers/create?name="+name, map[string]any{"Image": c.host + "/img0:1", "Cmd": []string{"sh", "-c", cmd}, "Labels": map[string]string{"keep": ""}, "HostConfig": map[string]any{"NetworkMode": "none"}})
	}
	box("later", checked)
	c.ask("rmi -f", "DELETE", "/images/"+c.host+"/img0:1?force=1", nil)
	c.ask("pull", "POST", "/images/create?tag=1&fromImage="+c.host+"/img0", nil)
	box("held", "sleep 10000")
	c.ask("start", "POST", "/containers/held/start", nil)

	load := func(*rand.Rand) {
		c.ask("load", "POST", "/images/load?quiet=1", bytes.NewReader(loaded))
	}
	var all sync.WaitGroup
	for _, work := range []struct {
		times int
		do    func(*rand.Rand)
	}{
		{20, c.pull}, {20, c.pull}, {8, c.buildClassic}, {8, c.build}, {20, c.save}, {20, load}, {20, c.tag}, {40, c.remove}, {10, c.commit}, {30, c.pruneImages}, {15, c.pruneAll},
	} {
		r := rand.New(rand.NewPCG(chance.Uint64(), chance.Uint64()))
		all.Go(func() {
			for range work.times {
				work.do(r)
			}
		})
	}
	all.Wait()

	c.finish("the container whose image was removed", "later")
	if _, errOut, code, err := e.CLI("exec", "held", "sh", "-c", checked); err != nil || code != 0 {
		t.Errorf("the running container: %d %s %v", code, errOut, err)
	}
	listed, err := e.CheckImages()
	if err != nil {
		t.Error(err)
	}
	for _, name := range []string{"later", "held"} {
		c.ask("rm", "DELETE", "/containers/"+name+"?force=1", nil)
	}
	c.pruneAll(nil)
	c.pruneImages(nil)
	if _, errOut, code, err := e.CLI("builder", "history", "rm", "--all"); err != nil || code != 0 {
		t.Errorf("builder history rm: %d %s %v", code, errOut, err)
	}
	if err := e.Restart(); err != nil {
		t.Fatal(err)
	}
	c.ask("images", "GET", "/images/json", nil)
	if out, _ := c.ask("images", "GET", "/images/json?all=1", nil); string(out) != "[]" {
		t.Errorf("images stay: %s", out)
	}
	if err := e.Stop(); err != nil { // layers are deleted in the background
		t.Fatal(err)
	}
	var before, after, databases int64
	for _, size := range fresh {
		before += size
	}
	for name, size := range files() {
		after += size
		if _, ok := fresh[name]; !ok {
			t.Errorf("left: %s, %d bytes", name, size)
		}
	}
	err = filepath.WalkDir(e.DataRoot(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".db" {
			if info, err := d.Info(); err == nil {
				databases += info.Size()
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if after != before {
		t.Errorf("a fresh data root has %d bytes, this one %d", before, after)
	}
	if databases > 8<<20 {
		t.Errorf("the databases have %d bytes", databases)
	}
	counts := map[string]int64{}
	c.counted.Range(func(k, v any) bool {
		counts[k.(string)] = v.(*atomic.Int64).Load()
		return true
	})
	text, err := json.MarshalIndent(counts, "", " ")
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d images listed at the end; databases %d bytes; %s", listed, databases, text)
	for _, what := range []string{"run pulled", "run built", "run classically built", "save", "push"} {
		if counts[what] == 0 {
			t.Errorf("nothing of %q was ever done: it proves nothing", what)
		}
	}
}
