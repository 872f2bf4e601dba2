package mount

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/test/promise"
)

func requireRoot(t *testing.T) {
	t.Helper()
	promise.Root(t)
}

// private runs fn on a thread with a mount namespace of its own, which ends
// with it.
func private(t *testing.T, fn func() error) {
	t.Helper()
	requireRoot(t)
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err == nil {
			err = Isolate(unix.MS_PRIVATE)
		}
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// 127 lower directories fit the option page, also with names that are long
// and have nothing in common.
func TestOverlayManyLayers(t *testing.T) {
	requireRoot(t)
	for name, pad := range map[string]int{"relative": 1, "by descriptor": 60} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var lower []string
			for i := range 127 {
				d := filepath.Join(dir, strings.Repeat("x", pad)+strconv.Itoa(i), "fs")
				if err := os.MkdirAll(d, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(d, "f"+strconv.Itoa(i)), nil, 0o644); err != nil {
					t.Fatal(err)
				}
				lower = append(lower, d)
			}
			upper, work := filepath.Join(dir, "up,per"), filepath.Join(dir, "wo:rk")
			for _, d := range []string{upper, work} {
				if err := os.Mkdir(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			o := PackOverlay(lower, upper, work, nil)
			if len(o.Data) > optionPage || (len(o.Paths) > 0) != (pad > 1) {
				t.Fatalf("%d bytes, %d paths", len(o.Data), len(o.Paths))
			}
			private(t, func() error {
				fd, err := o.Mount()
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				for i := range 127 {
					if err := unix.Faccessat(fd, "f"+strconv.Itoa(i), unix.F_OK, 0); err != nil {
						return &Error{"access", strconv.Itoa(i), err}
					}
				}
				made, err := CreateFile(fd, "/new", 0o644)
				if err != nil {
					return err
				}
				return unix.Close(made)
			})
			if _, err := os.Stat(filepath.Join(upper, "new")); err != nil {
				t.Fatal("a write did not reach the upper directory")
			}
		})
	}
}

func TestMakeInRoot(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	root := filepath.Join(dir, "root")
	for _, d := range []string{outside, filepath.Join(root, "a")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"abs": outside, "up": "../../../../../.." + outside, "dangling": "/later/on", "loop": "loop", "magic": "/proc/self/root",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, p := range []string{"/a/b/c", "abs/x/y", "up/z", "dangling/d", "/../../e"} {
		made, err := MkdirAll(fd, p, 0o755)
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		unix.Close(made)
	}
	if _, err := MkdirAll(fd, "loop/x", 0o755); !errors.Is(err, unix.ELOOP) {
		t.Errorf("loop: %v", err)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Fatalf("made %v outside, %v", entries, err)
	}
	for _, p := range []string{"a/b/c", "later/on/d", "e"} {
		if _, err := os.Stat(filepath.Join(root, p)); err != nil {
			t.Errorf("%s is not inside: %v", p, err)
		}
	}
	if f, err := OpenIn(unix.AT_FDCWD, "/proc/self/root", unix.O_PATH); err == nil {
		unix.Close(f)
		t.Error("a magic link was followed")
	}
}

func TestParseOptions(t *testing.T) {
	o := ParseOptions([]string{"rbind", "rro", "nosuid", "rslave", "size=1m"})
	if !o.Bind || !o.Recursive || o.Set != unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID || o.SetSub != unix.MOUNT_ATTR_RDONLY ||
		o.Spread != unix.MS_SLAVE || !o.SpreadAll || !slices.Equal(o.Data, []string{"size=1m"}) {
		t.Fatalf("%+v", o)
	}
	if o := ParseOptions([]string{"noexec", "exec", "ro", "rw", "private"}); o.Set != 0 || o.Clear != unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_RDONLY || o.SpreadAll {
		t.Fatalf("%+v", o)
	}
}

// What init links must stay light.
func TestImports(t *testing.T) {
	if _, err := os.Stat("mount_test.go"); err != nil {
		t.Skip("a matter of sources, which are elsewhere")
	}
	if _, err := os.Stat("../../../go.mod"); err != nil {
		t.Skip("a matter of sources: ", err)
	}
	out, err := exec.Command("go", "list", "-deps", "github.com/wherry-engine/wherry/cmd/wherry-init").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, banned := range []string{"os", "fmt", "net", "encoding/json", "os/exec", "os/signal"} {
		if slices.Contains(strings.Fields(string(out)), banned) {
			t.Errorf("wherry-init imports %s", banned)
		}
	}
}
