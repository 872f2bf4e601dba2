package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/test/promise"
)

func needRoot(t *testing.T) {
	t.Helper()
	promise.Root(t)
}

type recorder struct {
	mu  sync.Mutex
	all []string
}

func (r *recorder) publish(m events.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, string(m.Action)+" "+m.Actor.ID)
}

func newStore(t *testing.T) (*Store, *recorder) {
	t.Helper()
	r := &recorder{}
	s, err := Open(filepath.Join(t.TempDir(), "volumes"), r.publish, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, r
}

func make1(t *testing.T, s *Store, r Request) *Volume {
	t.Helper()
	v, err := s.Create(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestCreateRefusals(t *testing.T) {
	s, _ := newStore(t)
	make1(t, s, Request{Name: "have"})
	for _, tt := range []struct {
		r    Request
		is   func(error) bool
		text string
	}{
		{Request{Name: "x"}, errdefs.IsInvalidArgument, "create x: volume name is too short, names should be at least two alphanumeric characters"},
		{Request{Name: "a/b"}, errdefs.IsInvalidArgument, `create a/b: "a/b" includes invalid characters for a local volume name`},
		{Request{Name: "../b"}, errdefs.IsInvalidArgument, "includes invalid characters"},
		{Request{Name: ".hidden"}, errdefs.IsInvalidArgument, "includes invalid characters"},
		{Request{Name: "vv", Driver: "nope"}, errdefs.IsNotFound, `error looking up volume plugin nope: plugin "nope" not found`},
		{Request{Name: "vv", Options: map[string]string{"foo": "bar"}}, errdefs.IsInvalidArgument, `create vv: invalid option: "foo"`},
		{Request{Name: "vv", Options: map[string]string{"type": "tmpfs"}}, errdefs.IsInvalidArgument, `create vv: missing required option: "device"`},
		{Request{Name: "vv", Options: map[string]string{"o": "x", "device": "d", "type": "cifs", "size": "odd"}}, errdefs.IsInvalidArgument, "invalid size"},
		{Request{Name: "vv", Options: map[string]string{"size": "1m"}}, errdefs.IsInvalidArgument, "quota size requested but no quota support"},
		{Request{Name: "vv", Options: map[string]string{"type": "cifs", "device": "//host:99/x"}}, errdefs.IsInvalidArgument, "port not allowed in CIFS device URL"},
	} {
		_, err := s.Create(t.Context(), tt.r)
		if err == nil || !tt.is(err) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%+v: %v, want %q", tt.r, err, tt.text)
		}
	}
	if _, err := s.Get("vv"); !errdefs.IsNotFound(err) || err.Error() != "get vv: no such volume" {
		t.Error(err)
	}
}

func TestUseRemovePruneReopen(t *testing.T) {
	s, r := newStore(t)
	make1(t, s, Request{Name: "named", Labels: map[string]string{"a": "b"}, For: "c1"})
	s.Use("named", "c2")
	anonymous := make1(t, s, Request{})
	optioned := make1(t, s, Request{Name: "opt", Options: map[string]string{"type": "tmpfs", "device": "tmpfs"}})
	if err := s.Remove("named"); !errdefs.IsConflict(err) || err.Error() != "remove named: volume is in use - [c1, c2]" {
		t.Error(err)
	}
	names := func(f filter.Args) (out []string) {
		l, err := s.List(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range l.Volumes {
			out = append(out, v.Name)
		}
		return out
	}
	for _, tt := range []struct {
		f    filter.Args
		want []string
	}{
		{filter.Args{"dangling": {"false"}}, []string{"named"}},
		{filter.Args{"label": {"a=b"}}, []string{"named"}},
		{filter.Args{"label": {"a=c"}}, nil},
		{filter.Args{"name": {"am"}}, []string{"named"}},
		{filter.Args{"driver": {"local"}, "name": {"^opt$"}}, []string{"opt"}},
		{filter.Args{"driver": {"other"}}, nil},
	} {
		if got := names(tt.f); !slices.Equal(got, tt.want) {
			t.Errorf("%v: %q, want %q", tt.f, got, tt.want)
		}
	}
	if _, err := s.List(t.Context(), filter.Args{"odd": {"x"}}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}

	if err := os.WriteFile(filepath.Join(anonymous.Path(), "f"), make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(anonymous.Path(), "f"), filepath.Join(anonymous.Path(), "g")); err != nil {
		t.Fatal(err)
	}
	u, err := s.DiskUsage(t.Context())
	if err != nil || u.TotalCount != 2 || u.ActiveCount != 1 || u.TotalSize != 1000 || u.Reclaimable != 1000 {
		t.Errorf("%+v, %v", u, err)
	}

	// Another engine sees the same, and takes the leavings of a crash away.
	for _, d := range []string{"half/_data", ".gone-x/_data", "named/_fill"} {
		if err := os.MkdirAll(filepath.Join(s.root, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Open(s.root, r.publish, nil)
	if err != nil || len(again.byName) != 3 || again.byName["named"].Labels["a"] != "b" || !again.byName[anonymous.Name].Anonymous || again.byName["opt"].Options["type"] != "tmpfs" {
		t.Fatalf("%+v, %v", again, err)
	}
	if got, _ := filepath.Glob(filepath.Join(s.root, "*")); len(got) != 3 {
		t.Errorf("%q", got)
	}
	if got, _ := filepath.Glob(filepath.Join(s.root, "*", "_fill")); len(got) != 0 {
		t.Errorf("%q", got)
	}

	report, err := s.Prune(t.Context(), filter.Args{})
	if err != nil || !slices.Equal(report.VolumesDeleted, []string{anonymous.Name}) || report.SpaceReclaimed != 1000 {
		t.Errorf("%+v, %v", report, err)
	}
	s.Leave("named", "c1")
	s.Leave("named", "c2")
	if report, err = s.Prune(t.Context(), filter.Args{"label!": {"a"}, "all": {"1"}}); err != nil || len(report.VolumesDeleted) != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if report, err = s.Prune(t.Context(), filter.Args{"all": {"true"}}); err != nil || !slices.Equal(report.VolumesDeleted, []string{"named"}) {
		t.Errorf("%+v, %v", report, err)
	}
	if err := s.Remove("opt"); err != nil {
		t.Error(err)
	}
	s.waste.Wait()
	if got, _ := os.ReadDir(s.root); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	want := []string{"create named", "create " + anonymous.Name, "create opt", "destroy " + anonymous.Name, "prune ", "prune ", "destroy named", "prune ", "destroy opt"}
	if !slices.Equal(r.all, want) {
		t.Errorf("%q\nwant %q", r.all, want)
	}
	_ = optioned
}

// layers makes an image of two layers: the upper one changes, adds, removes,
// and replaces a directory.
func layers(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	lower, upper := filepath.Join(dir, "1"), filepath.Join(dir, "2")
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(lower, "data/sub"), 0o755), os.MkdirAll(filepath.Join(lower, "data/replaced"), 0o755),
		os.WriteFile(filepath.Join(lower, "data/kept"), []byte("kept"), 0o640), os.WriteFile(filepath.Join(lower, "data/gone"), []byte("gone"), 0o600),
		os.WriteFile(filepath.Join(lower, "data/replaced/old"), []byte("old"), 0o600),
		os.Link(filepath.Join(lower, "data/kept"), filepath.Join(lower, "data/sub/hard")), os.Symlink("../kept", filepath.Join(lower, "data/sub/soft")),
		syscall.Mkfifo(filepath.Join(lower, "data/fifo"), 0o622), os.Symlink("/data", filepath.Join(lower, "absolute")), os.WriteFile(filepath.Join(lower, "file"), nil, 0o600),
		unix.Setxattr(filepath.Join(lower, "data/kept"), "user.test", []byte("value"), 0), os.Lchown(filepath.Join(lower, "data/kept"), 7, 8),
		os.MkdirAll(filepath.Join(upper, "data/replaced"), 0o755), os.WriteFile(filepath.Join(upper, "data/new"), []byte("new"), 0o4755),
		unix.Mknod(filepath.Join(upper, "data/gone"), unix.S_IFCHR, 0), unix.Setxattr(filepath.Join(upper, "data/replaced"), "trusted.overlay.opaque", []byte("y"), 0),
		os.Chown(filepath.Join(upper, "data"), 70, 80), os.Chmod(filepath.Join(upper, "data"), 0o750|os.ModeSticky),
		os.Chtimes(filepath.Join(upper, "data/new"), time.Unix(1000, 0), time.Unix(2000, 0)), os.Chmod(filepath.Join(upper, "data/new"), 0o755|os.ModeSetuid))
	return []string{upper, lower}
}

func checkFilled(t *testing.T, dir string) {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		names = append(names, strings.TrimPrefix(path, dir))
		return err
	})
	if want := []string{"", "/fifo", "/kept", "/new", "/replaced", "/sub", "/sub/hard", "/sub/soft"}; err != nil || !slices.Equal(names, want) {
		t.Fatalf("%q, %v\nwant %q", names, err, want)
	}
	stat := func(name string) (st unix.Stat_t) {
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			t.Error(err)
		}
		return st
	}
	if st := stat(""); st.Uid != 70 || st.Gid != 80 || st.Mode&0o7777 != 0o1750 {
		t.Errorf("root: %+v", st)
	}
	if st := stat("new"); st.Mode&0o7777 != 0o4755 || st.Mtim.Sec != 2000 {
		t.Errorf("new: %+v", st)
	}
	if st := stat("kept"); st.Uid != 7 || st.Gid != 8 || st.Nlink != 2 || st.Ino != stat("sub/hard").Ino {
		t.Errorf("kept: %+v", st)
	}
	if st := stat("fifo"); st.Mode != unix.S_IFIFO|0o622&^uint32(0o22) && st.Mode != unix.S_IFIFO|0o622 {
		t.Errorf("fifo: %o", st.Mode)
	}
	value := make([]byte, 16)
	if n, err := unix.Getxattr(filepath.Join(dir, "kept"), "user.test", value); err != nil || string(value[:n]) != "value" {
		t.Errorf("attribute: %q, %v", value, err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "sub/soft")); err != nil || to != "../kept" {
		t.Errorf("link: %q, %v", to, err)
	}
}

func TestPopulate(t *testing.T) {
	needRoot(t)
	s, _ := newStore(t)
	image := layers(t)
	for i, destination := range []string{"/data", "/absolute"} {
		v := make1(t, s, Request{})
		if err := s.Populate(t.Context(), v.Name, image, destination); err != nil {
			t.Fatal(err)
		}
		checkFilled(t, v.Path())
		if i == 0 {
			continue
		}
		// What is there stays.
		if err := os.Remove(filepath.Join(v.Path(), "new")); err != nil {
			t.Fatal(err)
		}
		if err := s.Populate(t.Context(), v.Name, image, destination); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(v.Path(), "new")); err == nil {
			t.Error("filled again")
		}
	}
	// One layer only, in use, a file, nothing at all.
	v := make1(t, s, Request{Name: "used"})
	if _, err := s.Mount(t.Context(), Run{Volume: "used", Container: "c"}); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(v.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	for _, destination := range []string{"/file", "/nothing", "/data/gone"} {
		if err := s.Populate(t.Context(), "used", image, destination); err != nil {
			t.Errorf("%s: %v", destination, err)
		}
	}
	if err := s.Populate(t.Context(), "used", image[1:], "/data/sub"); err != nil {
		t.Fatal(err)
	}
	if names, err := held.Readdirnames(-1); err != nil || len(names) != 2 {
		t.Errorf("who had the directory open sees %q, %v", names, err)
	}
}

// TestMountIsPrivate: a volume with a file system of its own is shared by all
// who use it, is not in the host's mount table, and goes with its last user.
func TestMountIsPrivate(t *testing.T) {
	needRoot(t)
	s, _ := newStore(t)
	make1(t, s, Request{Name: "vol", Options: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=7,mode=0700"}})
	a, err := s.Mount(t.Context(), Run{Volume: "vol", Container: "a"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Mount(t.Context(), Run{Volume: "vol", Container: "b"})
	if err != nil || a.Source != b.Source || a.Device == 0 || a.Device != b.Device {
		t.Fatalf("%+v %+v %v", a, b, err)
	}
	// As a container's init finds it.
	look := func(source string, f func(root int)) {
		t.Helper()
		tid, inside, ok := strings.Cut(strings.TrimPrefix(source, "/proc/"), "/root/")
		if !ok {
			t.Fatal(source)
		}
		err := apart(func() error {
			ns, err := unix.Open("/proc/"+tid+"/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(ns)
			if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
				return err
			}
			fd, err := mount.OpenStrict(unix.AT_FDCWD, "/"+inside, unix.O_PATH)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			f(fd)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	look(a.Source, func(root int) {
		var st unix.Stat_t
		if err := unix.Fstat(root, &st); err != nil || st.Uid != 7 || st.Mode&0o7777 != 0o700 {
			t.Errorf("%+v, %v", st, err)
		}
		if err := unix.Mkdirat(root, "sub", 0o755); err != nil {
			t.Error(err)
		}
		if err := unix.Symlinkat("/../../etc", root, "evil"); err != nil {
			t.Error(err)
		}
	})
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(table), s.root) || strings.Contains(string(table), "wherry-volumes") {
		t.Errorf("the host sees the mount: %v", err)
	}
	p, err := s.Mount(t.Context(), Run{Volume: "vol", Container: "b", Subpath: "sub"})
	if err != nil {
		t.Fatal(err)
	}
	look(p.Source, func(root int) {
		var st unix.Stat_t
		if err := unix.Fstat(root, &st); err != nil || st.Dev != a.Device {
			t.Errorf("subpath: %+v, %v", st, err)
		}
	})
	s.Started(p)
	for _, sub := range []string{"nothing", "evil"} {
		if _, err := s.Mount(t.Context(), Run{Volume: "vol", Container: "c", Subpath: sub}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "cannot access path") {
			t.Errorf("%s: %v", sub, err)
		}
	}
	s.Unmount("vol", "a")
	look(b.Source, func(root int) {
		if fd, err := unix.Openat(root, "sub", unix.O_PATH, 0); err != nil {
			t.Error("gone while in use")
		} else {
			unix.Close(fd)
		}
	})
	s.Unmount("vol", "b")
	if v, _ := s.Get("vol"); v.place != "" {
		t.Error("still mounted")
	}
	if err := s.Remove("vol"); err != nil {
		t.Error(err)
	}
}

func TestMountRefusals(t *testing.T) {
	needRoot(t)
	s, _ := newStore(t)
	for _, tt := range []struct {
		options map[string]string
		text    string
	}{
		{map[string]string{"type": "none", "o": "bind", "device": "/no/such"}, "failed to mount local volume: mount /no/such:"},
		{map[string]string{"type": "nofs", "device": "x"}, "no such device"},
		{map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "odd=1"}, "odd=1"},
		{map[string]string{"type": "none", "o": "bind,odd", "device": "/"}, `option "odd" has no meaning for a bind mount`},
	} {
		v := make1(t, s, Request{Options: tt.options})
		_, err := s.Mount(t.Context(), Run{Volume: v.Name, Container: "c"})
		if err == nil || !strings.HasPrefix(err.Error(), "error while mounting volume '"+v.Path()+"': failed to mount local volume") || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%v: %v", tt.options, err)
		}
	}
}

func TestCopyIsCancelled(t *testing.T) {
	needRoot(t)
	s, _ := newStore(t)
	v := make1(t, s, Request{Name: "vol"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Populate(ctx, "vol", layers(t), "/data"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if names, _ := os.ReadDir(v.Path()); len(names) != 0 {
		t.Errorf("half a copy: %v", names)
	}
}
