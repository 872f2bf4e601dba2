package builder

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/test/harness"
)

// onSmallDisk starts an engine whose data root is a file system of its own.
func onSmallDisk(t *testing.T, config string, bytes int64) *harness.Engine {
	t.Helper()
	harness.Require(t, "engine", "busybox", "root")
	e, err := harness.New(harness.Options{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(e.DataRoot(), 0o711); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", e.DataRoot(), "tmpfs", 0, fmt.Sprintf("size=%d,mode=0711", bytes)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(e.Stop(), unix.Unmount(e.DataRoot(), 0), e.Close()); err != nil {
			t.Error(err)
		}
	})
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	return e
}

// free is how much the engine's file system has left.
func free(t *testing.T, e *harness.Engine) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(e.DataRoot(), &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// A build that does not fit says so, gives back what it took before the next
// begins, and leaves the images, the cache and other builds as they were.
func TestFull(t *testing.T) {
	harness.Require(t, "docker28")
	const disk, big = 64 << 20, 100 << 20
	e := onSmallDisk(t, "", disk)
	small := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN date +%N > /when\n"})
	wherry(t, e, "build", "-t", "small", small) // which holds space for the databases
	when := inside(t, e, "small", "cat", "/when")
	before := free(t, e)
	large := files(t, map[string]string{
		"run":     fmt.Sprintf("FROM busybox\nRUN head -c %d /dev/zero > /big\n", big),
		"context": "FROM busybox\nCOPY big /\n",
		"copy":    fmt.Sprintf("FROM busybox AS one\nRUN head -c %d /dev/zero > /half\nFROM busybox\nCOPY --from=one /half /half\n", before*2/3),
		"image":   fmt.Sprintf("FROM busybox\nRUN head -c %d /dev/urandom > /half\n", before*2/3), // it fits once, not twice
		"big":     "",
	})
	if err := os.Truncate(large+"/big", big); err != nil {
		t.Fatal(err)
	}
	again := func(after string) {
		room := free(t, e)
		out, code := client(t, e, nil, nil, harness.Binary("wherry"), "build", "--progress", "plain", "-t", "small", small)
		if code != 0 {
			t.Fatalf("after %s, with %d KB free: exit %d\n%s", after, room>>10, code, out)
		}
		if got := inside(t, e, "small", "cat", "/when"); got != when {
			t.Errorf("after %s: the step was made again", after)
		}
	}
	for file, want := range map[string]string{
		"run": "exit code: 1", "context": "no space left on device", "copy": "no space left on device",
	} {
		out, code := client(t, e, nil, nil, harness.Binary("wherry"), "build", "--progress", "plain", "-t", "large", "-f", large+"/"+file, large)
		if code == 0 || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d\n%s", file, code, out)
		}
		again(file)
		out, code = client(t, e, classicEnv, nil, harness.DockerCLI(), "build", "-t", "large", "-f", large+"/"+file, large)
		// This client sends the large file always.
		if code == 0 || !strings.Contains(out, "no space left on device") && !strings.Contains(out, "returned a non-zero code: 1") {
			t.Errorf("classic %s: exit %d\n%s", file, code, out)
		}
		again("classic " + file)
	}
	// A layer's archive takes no space of its own.
	if out, code := client(t, e, nil, nil, harness.Binary("wherry"), "build", "-t", "large", "-f", large+"/image", large); code != 0 {
		t.Errorf("image: exit %d\n%s", code, out)
	}
	wherry(t, e, "rmi", "large")
	if out, stderr, code, err := e.CLI("builder", "prune", "-af"); err != nil || code != 0 {
		t.Fatal(out, stderr, code, err)
	}
	eventually(t, "what failed builds took is free again", func() bool { return free(t, e) > before-2<<20 })
}
