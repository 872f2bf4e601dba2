package image

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"

	"github.com/wherry-engine/wherry/internal/snapshot"
)

// crashRoot tells the re-executed test binary which store to work in.
const (
	crashRoot   = "WHERRY_TEST_CRASH_ROOT"
	crashDriver = "WHERRY_TEST_CRASH_DRIVER"
)

func crashArchive(n int) []byte {
	return dockerArchive([]string{fmt.Sprintf("crash:%d", n)}, nil, busybox(), gz(tarOf(file{name: fmt.Sprint("f", n), body: strings.Repeat("x", 1<<16)})))
}

// TestCrashWorker is the process that TestCrash kills: it loads, tags and
// removes without end.
func TestCrashWorker(t *testing.T) {
	root := os.Getenv(crashRoot)
	if root == "" {
		t.Skip("only run by TestCrash")
	}
	ctx := context.Background()
	s, err := Open(ctx, Config{Root: root, Driver: os.Getenv(crashDriver)})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("open")
	for n := 0; ; n = (n + 1) % 3 {
		if err := s.Load(ctx, bytes.NewReader(crashArchive(n)), true, nil, func(jsonstream.Message) {}); err != nil {
			t.Fatal(err)
		}
		fmt.Println("loaded")
		if err := s.Tag(ctx, fmt.Sprintf("crash:%d", n), fmt.Sprintf("tagged:%d", n)); err != nil {
			t.Fatal(err)
		}
		if n == 2 {
			for i := range 3 {
				img, err := s.Resolve(ctx, fmt.Sprintf("crash:%d", i))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Remove(ctx, img.ID.String(), RemoveOptions{Force: true}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// Whenever the process is killed, the store opens again, every image in it is
// whole, and after their removal nothing is left.
func TestCrash(t *testing.T) {
	needRoot(t)
	for _, driver := range []string{snapshot.Overlay2, snapshot.VFS} {
		t.Run(driver, func(t *testing.T) { crash(t, driver) })
	}
}

func crash(t *testing.T, driver string) {
	root := t.TempDir()
	rounds := 20
	if testing.Short() {
		rounds = 5
	}
	seen := 0
	for i := range rounds {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrashWorker$", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), crashRoot+"="+root, crashDriver+"="+driver)
		var out bytes.Buffer
		cmd.Stderr = &out
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := bufio.NewScanner(pipe)
		if !said.Scan() || said.Text() != "open" {
			cmd.Wait()
			t.Fatalf("round %d: the store does not open: %s\n%s", i, said.Text(), out.Bytes())
		}
		// The point of death is the input here.
		for range i % 3 {
			said.Scan()
		}
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		f := &fixture{t: t, root: root, config: Config{Root: root, Driver: driver}}
		f.reopen()
		f.background.Wait()
		seen += f.verify()
		if i%4 == 3 {
			for _, e := range f.entries() {
				if _, err := f.Remove(context.Background(), e.id.String(), RemoveOptions{Force: true}); err != nil {
					t.Fatal(err)
				}
			}
			f.wantEmpty()
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.Fatalf("after round %d", i)
		}
	}
	if seen == 0 {
		t.Error("no round ended with an image in the store: nothing was tested")
	}
}

// verify checks all blobs' digests, and all images' layers; it returns how many.
func (f *fixture) verify() int {
	f.t.Helper()
	blobs, err := filepath.Glob(filepath.Join(f.root, "content/blobs/sha256/*"))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, name := range blobs {
		b, err := os.ReadFile(name)
		if err != nil || digest.FromBytes(b).Encoded() != filepath.Base(name) {
			f.t.Errorf("blob %s: %v", name, err)
		}
	}
	ingests, err := filepath.Glob(filepath.Join(f.root, "content/ingest/*"))
	if err != nil {
		f.t.Error(err)
	}
	if len(ingests) > 0 {
		for _, dir := range ingests {
			ref, err := os.ReadFile(filepath.Join(dir, "ref"))
			f.t.Errorf("ingest left: %s %q %v", dir, ref, err)
		}
	}
	for _, e := range f.entries() {
		img, err := f.Store.image(context.Background(), e)
		if err != nil {
			f.t.Error(err)
			continue
		}
		lower, err := f.Layers(context.Background(), img)
		if err != nil || len(lower.Dirs) == 0 {
			f.t.Errorf("layers of %v: %v %v", img.RepoTags, lower, err)
			continue
		}
		if _, err := os.Stat(filepath.Join(lower.Dirs[len(lower.Dirs)-1], "bin/busybox")); err != nil {
			f.t.Error(err)
		}
		if err := f.Save(context.Background(), []string{img.ID.String()}, nil, &bytes.Buffer{}); err != nil {
			f.t.Error(err)
		}
	}
	dirs, _ := filepath.Glob(filepath.Join(f.root, "layers/snapshots/*"))
	if most := 2 * len(f.entries()); len(dirs) > most {
		f.t.Errorf("%d layer directories for %d images: %v", len(dirs), len(f.entries()), dirs)
	}
	return len(f.entries())
}
