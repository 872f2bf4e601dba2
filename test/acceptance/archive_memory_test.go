package acceptance

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// archiveBytes is how large the image of TestArchiveMemory is, unless
// WHERRY_ARCHIVE_BYTES says something else.
const archiveBytes = 512 << 20

// bulky is an image of a few large layers that is never whole in memory.
type bulky struct {
	name   string
	layers int
	size   int64 // of each layer's one file
}

// layer writes a layer's tar.
func (b bulky) layer(w io.Writer, n int) error {
	tw := tar.NewWriter(w)
	if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprint("file", n), Mode: 0o644, Size: b.size}); err != nil {
		return err
	}
	if _, err := io.CopyN(tw, rand.NewChaCha8([32]byte{byte(n)}), b.size); err != nil {
		return err
	}
	return tw.Close()
}

// length is that of a layer's tar: a header, the file in blocks of 512, two blocks.
func (b bulky) length() int64 { return 512 + (b.size+511)/512*512 + 1024 }

// archive writes the image as a docker-archive.
func (b bulky) archive(w io.Writer) error {
	var diffs, names []string
	for n := range b.layers {
		sum := sha256.New()
		if err := b.layer(sum, n); err != nil {
			return err
		}
		diffs, names = append(diffs, "sha256:"+hex.EncodeToString(sum.Sum(nil))), append(names, fmt.Sprint(n, ".tar"))
	}
	tw := tar.NewWriter(w)
	document := func(name string, v any) error {
		body, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body))}); err != nil {
			return err
		}
		_, err = tw.Write(body)
		return err
	}
	if err := document("config.json", map[string]any{"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": diffs}}); err != nil {
		return err
	}
	for n, name := range names {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: b.length()}); err != nil {
			return err
		}
		if err := b.layer(tw, n); err != nil {
			return err
		}
	}
	if err := document("manifest.json", []any{map[string]any{"Config": "config.json", "RepoTags": []string{b.name}, "Layers": names}}); err != nil {
		return err
	}
	return tw.Close()
}

// peak calls f and returns by how many bytes the process's resident memory grew
// at most meanwhile.
func peak(t *testing.T, pid int, f func()) int64 {
	t.Helper()
	status := func(key string) int64 {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, key+":"); ok {
				n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				return n << 10
			}
		}
		t.Fatalf("no %s in the status of %d", key, pid)
		return 0
	}
	before := status("VmRSS")
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil { // the peak begins anew
		t.Fatal(err)
	}
	f()
	return status("VmHWM") - before
}

// TestArchiveMemory: the engine needs no more memory for a large image than for
// a small one, in load, save, push and pull.
func TestArchiveMemory(t *testing.T) {
	harness.Require(t, "engine")
	total := int64(archiveBytes)
	if text := os.Getenv("WHERRY_ARCHIVE_BYTES"); text != "" {
		var err error
		if total, err = strconv.ParseInt(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	const (
		layers = 4
		limit  = 32 << 20
		packed = 64 << 20 // of a push, which compresses two layers at a time
	)
	e := harness.Run(t, harness.Options{Flags: []string{"--bridge", "none"}})
	host := e.ServeRegistry(t, "127.0.0.1:0")
	client := e.HTTP()
	ask := func(method, path string, body io.Reader, to io.Writer) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://engine"+path, body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(method, path, err)
		}
		defer resp.Body.Close()
		var said bytes.Buffer
		if to == nil {
			to = &said
		}
		if _, err := io.Copy(to, resp.Body); err != nil || resp.StatusCode != 200 || strings.Contains(said.String(), "errorDetail") {
			t.Fatal(method, path, resp.StatusCode, said.String(), err)
		}
	}
	steps := func(b bulky) (grown map[string]int64) {
		grown = map[string]int64{}
		grown["load"] = peak(t, e.PID(), func() {
			r, w := io.Pipe()
			go func() { w.CloseWithError(b.archive(w)) }()
			ask("POST", "/images/load?quiet=1", r, nil)
		})
		var saved length
		grown["save"] = peak(t, e.PID(), func() { ask("GET", "/images/"+b.name+"/get", nil, &saved) })
		if int64(saved) < b.size*layers {
			t.Errorf("save gave %d bytes of %d", saved, b.size*layers)
		}
		if total > archiveBytes {
			return grown // there would have to be space for it in a registry, too
		}
		grown["push"] = peak(t, e.PID(), func() { ask("POST", "/images/"+strings.TrimSuffix(b.name, ":1")+"/push?tag=1", nil, nil) })
		ask("POST", `/images/prune?filters={"dangling":["false"]}`, nil, nil)
		grown["pull"] = peak(t, e.PID(), func() { ask("POST", "/images/create?fromImage="+b.name, nil, nil) })
		return grown
	}
	steps(bulky{host + "/small:1", layers, 1 << 20}) // what is loaded once and stays
	grown := steps(bulky{host + "/large:1", layers, total / layers})
	t.Logf("with %d MB the engine's memory grew by at most, in MB:", total>>20)
	for what, n := range grown {
		t.Logf("%s: %.1f", what, float64(n)/(1<<20))
		if n > limit && (what != "push" || n > packed) {
			t.Errorf("%s of %d MB: the engine grew by %d MB", what, total>>20, n>>20)
		}
	}
}

// length counts what is written to it.
type length int64

func (l *length) Write(b []byte) (int, error) {
	*l += length(len(b))
	return len(b), nil
}
