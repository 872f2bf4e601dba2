package fileop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/continuity/sysx"
	copier "github.com/tonistiigi/fsutil/copy"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/test/promise"
)

var old = time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)

// tree makes files: "d name mode", "f name mode", "l name target",
// "h name other", "w name" (a whiteout), "o name" (a directory that hides), "p name" (a pipe).
func tree(t *testing.T, dir string, lines ...string) string {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(dir, 0o755))
	for n, line := range lines {
		f := strings.Fields(line)
		name := filepath.Join(dir, f[1])
		var mode uint32
		if len(f) > 2 {
			fmt.Sscanf(f[2], "%o", &mode)
		}
		switch f[0] {
		case "d", "o":
			must(os.Mkdir(name, 0o755))
			if f[0] == "o" {
				must(unix.Setxattr(name, "trusted.overlay.opaque", []byte("y"), 0))
			} else {
				must(syscall.Chmod(name, mode))
				must(unix.Setxattr(name, "user.mark", []byte(f[1]), 0))
				must(os.Lchown(name, n, n+1))
			}
		case "f":
			must(os.WriteFile(name, []byte(dir+line), 0o600))
			must(os.Lchown(name, 0, n%2))
			must(syscall.Chmod(name, mode))
			must(unix.Setxattr(name, "user.mark", []byte(f[1]), 0))
		case "l":
			must(os.Symlink(f[2], name))
		case "h":
			must(os.Link(filepath.Join(dir, f[2]), name))
		case "w":
			must(unix.Mknod(name, unix.S_IFCHR, 0))
		case "p":
			must(unix.Mkfifo(name, 0o640))
		}
	}
	must(filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		ts := unix.NsecToTimespec(old.UnixNano())
		return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}))
	return dir
}

// describe tells all of a tree, line by line.
func describe(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		when := "now"
		if st.Mtim.Sec == old.Unix() {
			when = fmt.Sprint(st.Mtim.Nsec)
		}
		rel := path[len(dir):]
		fmt.Fprintf(&out, "%s %o %d:%d %s", rel, st.Mode, st.Uid, st.Gid, when)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " %q", b)
			if first[st.Ino] != "" {
				fmt.Fprintf(&out, " is %s", first[st.Ino])
			}
			first[st.Ino] = rel
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " -> %s", to)
		}
		names, err := sysx.LListxattr(path)
		for _, n := range names {
			if !strings.HasPrefix(n, "trusted.") {
				v, _ := sysx.LGetxattr(path, n)
				fmt.Fprintf(&out, " %s=%s", n, v)
			}
		}
		out.WriteString("\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// mounted calls f with an overlay of the layers, upper one first.
func mounted(t *testing.T, layers []string, f func(dir string)) {
	t.Helper()
	dir, work := t.TempDir(), filepath.Join(t.TempDir(), "work")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	data := fmt.Sprintf("upperdir=%s,workdir=%s,lowerdir=%s", layers[0], work, strings.Join(layers[1:], ":"))
	if err := unix.Mount("overlay", dir, "overlay", 0, data); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, 0)
	f(dir)
}

func private(t *testing.T) {
	t.Helper()
	promise.Root(t)
	runtime.LockOSThread() // for good: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := mount.Isolate(unix.MS_PRIVATE); err != nil {
		t.Fatal(err)
	}
}

// TestLikeBuildKit copies in both ways and compares the layers, and what a
// container would see.
func TestLikeBuildKit(t *testing.T) {
	private(t)
	lower := func(dir string) []string {
		return []string{
			tree(t, dir+"/2", "d dir 0711", "w dir/gone", "o dir/hides", "f dir/hides/seen 644", "d dir/both 0700", "w was"),
			tree(t, dir+"/1", "d dir 0750", "f dir/gone 644", "d dir/hides 0755", "f dir/hides/hidden 644", "d dir/both 0770",
				"f dir/both/file 600", "l link dir", "d to 0755", "l to/file ../etc", "d deep 0755", "d deep/er 01777", "d deep/er/still 0755", "d was 0700", "f was/file 644", "d etc 0755"),
		}
	}
	source := tree(t, t.TempDir(), "f file 4755", "f second 640", "h third second", "l link ../away", "d sub 02750", "f sub/file 600",
		"d both 0755", "f both/file 640", "f both/other 644", "d hides 0711", "f hides/hidden 600", "f gone 644", "d empty 0500")
	odd := tree(t, t.TempDir(), "f a 644", "p pipe", "f z 644", "d y 0711")
	for _, c := range []struct {
		from, src, dst string
		owner          *copier.User
		other          bool // BuildKit must do it
	}{
		{source, "/", "/new", nil, false},
		{source, ".", "/new/", nil, false},
		{source, "/", "/a/b/c", &copier.User{UID: 11, GID: 12}, false},
		{source, "/", "/", nil, false},
		{source, "/", "/dir", nil, false},
		{source, "/", "/dir/hides", &copier.User{UID: 11, GID: 12}, false},
		{source, "/", "/was", nil, false},
		{source, "/", "/deep/er/still", nil, false},
		{source, "/sub", "/deep/er/new", nil, false},
		{source, "/", "/link/x", nil, true},
		{source, "/", "/dir/both/file", nil, true},
		{source, "/file", "/dir/both/", nil, false},
		{source, "/file", "/dir/both", nil, false},
		{source, "/file", "/dir/both/file", nil, false},
		{source, "/file", "/dir/gone", nil, false},
		{source, "/file", "/deep/er/still/name", &copier.User{UID: 1, GID: 1}, false},
		{source, "/file", "/x/y/", nil, false},
		{source, "/sub/file", "/", nil, false},
		{source, "/file", "/to/", nil, false},
		{source, "/to", "/dir/", nil, true},
		{source, "/file", "/link", nil, true},
		{source, "/link", "/x", nil, true},
		{source, "/none", "/x", nil, true},
		{odd, "/", "/new", nil, true},
		{odd, "/", "/dir", nil, true},
	} {
		t.Run(strings.NewReplacer("/", "|").Replace(c.src+" to "+c.dst), func(t *testing.T) {
			opts := []copier.Opt{func(i *copier.CopyInfo) {
				i.CopyDirContents, i.FollowLinks = true, true
				i.Chown = func(was *copier.User) (*copier.User, error) {
					if c.owner != nil {
						return c.owner, nil
					}
					return was, nil
				}
			}}
			var layers, views [2]string
			var failed [2]error
			for way := range 2 {
				dir := t.TempDir()
				list := append([]string{tree(t, dir+"/upper", "d early 0700", "f early/file 644")}, lower(dir)...)
				other := way == 1
				if way == 0 {
					err := copyTree(context.Background(), c.from, c.src, false, list, c.dst, c.owner, true)
					if other = errors.Is(err, errOther); !other && err != nil {
						t.Fatal(err)
					}
					if other != c.other {
						t.Errorf("left to BuildKit: %t, want %t", other, c.other)
					}
				}
				mounted(t, list, func(at string) {
					if other {
						failed[way] = copier.Copy(context.Background(), c.from, c.src, at, c.dst, opts...)
					}
					views[way] = strings.ReplaceAll(describe(t, at), dir, "")
				})
				layers[way] = strings.ReplaceAll(describe(t, list[0]), dir, "")
			}
			if (failed[0] == nil) != (failed[1] == nil) {
				t.Errorf("failed with %v, BuildKit with %v", failed[0], failed[1])
			}
			if failed[1] != nil {
				return // the layer is thrown away
			}
			if layers[0] != layers[1] {
				t.Errorf("the layer is\n%s\nby BuildKit\n%s", layers[0], layers[1])
			}
			if views[0] != views[1] {
				t.Errorf("one sees\n%s\nby BuildKit\n%s", views[0], views[1])
			}
		})
	}
}

// TestLinks tells which files of a copy are links, and that a file is in no
// two layers that stand on each other.
func TestLinks(t *testing.T) {
	private(t)
	source := t.TempDir()
	for i := range few + 10 {
		if err := os.WriteFile(filepath.Join(source, fmt.Sprint(i)), fmt.Append(nil, i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	big := t.TempDir()
	if err := os.WriteFile(filepath.Join(big, "big"), make([]byte, large), 0o644); err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	layer := func(n int) string { return tree(t, filepath.Join(base, fmt.Sprint(n), "fs")) }
	linked := func(dir string) (n int) {
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			var st unix.Stat_t
			if unix.Lstat(path, &st) == nil && !d.IsDir() && st.Nlink > 1 {
				n++
			}
			return err
		})
		return n
	}
	one, two, three, alone := layer(1), layer(2), layer(3), layer(4)
	for _, s := range []struct {
		from, dst string
		layers    []string
		want      int
	}{
		{source, "/all", []string{one}, 10},
		{source, "/all", []string{two, one}, 0}, // the ten have two links, but not from here
		{big, "/big", []string{three, one}, 1},
		{big, "/etc/big", []string{alone}, 0},
	} {
		if err := copyTree(context.Background(), s.from, "/", false, s.layers, s.dst, nil, true); err != nil {
			t.Fatal(err)
		}
		n := linked(s.layers[0])
		if s.layers[0] == two {
			// More than ten may be new links: none of them is one of the layer below.
			below, here := map[uint64]bool{}, map[uint64]bool{}
			if err := errors.Join(inodes(unix.AT_FDCWD, one, below), inodes(unix.AT_FDCWD, two, here)); err != nil {
				t.Fatal(err)
			}
			for ino := range here {
				if below[ino] {
					t.Error("a file is in both layers")
				}
			}
			continue
		}
		if n != s.want {
			t.Errorf("%s to %s: %d links, want %d", s.from, s.dst, n, s.want)
		}
	}
	// What BuildKit writes over a link leaves the other name as it was.
	mounted(t, []string{three, one}, func(at string) {
		other := tree(t, t.TempDir(), "f big 600")
		if err := copier.Copy(context.Background(), other, "/", at, "/big", func(i *copier.CopyInfo) { i.CopyDirContents = true }); err != nil {
			t.Fatal(err)
		}
	})
	if st, err := os.Stat(filepath.Join(big, "big")); err != nil || st.Size() != large || st.Mode() != 0o644 {
		t.Errorf("the source is %v, %v", st, err)
	}
}
