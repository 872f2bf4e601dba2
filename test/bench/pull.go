package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/wherry-engine/wherry/test/harness"
)

var pulls = flag.Int("pulls", 0, "time only that many pulls of an image of 8 layers and 600 MB from a local registry")

// The image of the pulls: real files, taken from this machine.
const (
	pullLayers    = 8
	pullLayerSize = 75 << 20
)

// timePulls times pulls by wherry and docker.io of the same gzip image, and
// of a zstd one by wherry and by curl, zstd and tar, interleaved.
func timePulls(dir string) (err error) {
	image, err := ofFiles("/usr")
	if err != nil {
		return err
	}
	w, err := harness.New(harness.Options{HostNet: true, Flags: []string{"--bridge", "none"}})
	if err != nil {
		return err
	}
	d, err := harness.New(harness.Options{HostNet: true, Kind: harness.Docker, Flags: []string{"--bridge", "none", "--iptables=false", "--max-concurrent-downloads", "8"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close(), d.Close()) }()
	if err := errors.Join(w.Start(), d.Start()); err != nil {
		return err
	}
	registry := exec.Command(harness.Binary("wherry-registry"), "serve", "--addr", "127.0.0.1:0", "--data", filepath.Join(dir, "registry"))
	out, err := registry.StdoutPipe()
	if err != nil {
		return err
	}
	if err := registry.Start(); err != nil {
		return err
	}
	defer func() {
		registry.Process.Signal(os.Interrupt)
		registry.Wait()
	}()
	var host string
	if _, err := fmt.Fscanf(out, "serving http://%s\n", &host); err != nil {
		return err
	}
	names := map[string]string{}
	for _, how := range []string{"gzip", "zstd"} {
		image.Names = []string{how + ":v1"}
		if err := w.Load(image.OCIArchive(how)); err != nil {
			return err
		}
		names[how] = host + "/" + how + ":v1"
		for _, args := range [][]string{{"tag", how + ":v1", names[how]}, {"push", "-q", names[how]}, {"rmi", "-f", how + ":v1", names[how]}} {
			if _, err := timed(w.Command(context.Background(), harness.Binary("wherry"), args...)); err != nil {
				return err
			}
		}
	}
	image = nil
	script, err := unpackScript(host, "zstd", filepath.Join(dir, "unpacked"))
	if err != nil {
		return err
	}
	subjects := []struct {
		name       string
		once, undo func() *exec.Cmd
	}{
		{"wherry, gzip", cli(w, harness.Binary("wherry"), "pull", "-q", names["gzip"]), cli(w, harness.Binary("wherry"), "rmi", "-f", names["gzip"])},
		{"docker.io, gzip", cli(d, harness.OldDockerCLI(), "pull", "-q", names["gzip"]), cli(d, harness.OldDockerCLI(), "rmi", "-f", names["gzip"])},
		{"wherry, zstd", cli(w, harness.Binary("wherry"), "pull", "-q", names["zstd"]), cli(w, harness.Binary("wherry"), "rmi", "-f", names["zstd"])},
		{"curl | zstd -d | tar x", func() *exec.Cmd { return exec.Command("sh", "-c", script) }, func() *exec.Cmd { return exec.Command("rm", "-rf", filepath.Join(dir, "unpacked")) }},
	}
	times := make([]sample, len(subjects))
	for round := range *pulls {
		for i, s := range subjects {
			exec.Command("sync").Run() // what the one before left to be written
			took, err := timed(s.once())
			if err != nil {
				return err
			}
			times[i].times = append(times[i].times, took)
			fmt.Printf("%d  %-24s %10s\n", round+1, s.name, ms(took))
			if _, err := timed(s.undo()); err != nil {
				return err
			}
		}
	}
	for i, s := range subjects {
		m := times[i].median()
		fmt.Printf("%-24s median %10s, fastest %10s\n", s.name, ms(m), ms(times[i].times[0]))
	}
	fmt.Printf("wherry / docker.io: median %.2f, fastest %.2f\nwherry / curl|zstd|tar: median %.2f, fastest %.2f\n",
		float64(times[0].median())/float64(times[1].median()), float64(times[0].times[0])/float64(times[1].times[0]),
		float64(times[2].median())/float64(times[3].median()), float64(times[2].times[0])/float64(times[3].times[0]))
	return nil
}

func cli(e *harness.Engine, program string, args ...string) func() *exec.Cmd {
	return func() *exec.Cmd { return e.Command(context.Background(), program, args...) }
}

// ofFiles makes the image of the first files below root that fill it.
func ofFiles(root string) (*harness.Image, error) {
	image := &harness.Image{Config: harness.Config{Cmd: []string{"/x"}}}
	var layer []harness.File
	size := 0
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if size += len(b); len(b) > pullLayerSize/4 {
			size -= len(b)
			return nil
		}
		if layer = append(layer, harness.File{Name: strings.TrimPrefix(path, "/"), Mode: 0o644, Data: b}); size < pullLayerSize {
			return nil
		}
		image.Layers = append(image.Layers, layer)
		layer, size = nil, 0
		if len(image.Layers) == pullLayers {
			return fs.SkipAll
		}
		return nil
	})
	if err == nil && len(image.Layers) < pullLayers {
		err = fmt.Errorf("%s has not enough files for %d layers of %d MB", root, pullLayers, pullLayerSize>>20)
	}
	return image, err
}

// unpackScript fetches the layers of an image and unpacks them, as many at a
// time as there are cores.
func unpackScript(host, name, to string) (string, error) {
	if _, _, err := net.SplitHostPort(host); err != nil {
		return "", err
	}
	resp, err := http.Get("http://" + host + "/v2/" + name + "/manifests/v1")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	var m struct{ Layers []struct{ Digest string } }
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&m); err != nil {
		return "", err
	}
	var digests []string
	for _, l := range m.Layers {
		digests = append(digests, l.Digest)
	}
	return fmt.Sprintf(`printf '%%s\n' %s | xargs -P$(nproc) -I{} sh -c 'mkdir -p %s/{} && curl -sf http://%s/v2/%s/blobs/{} | zstd -dc | tar x -C %s/{}' && sync -f %s`,
		strings.Join(digests, " "), to, host, name, to, to), nil
}
