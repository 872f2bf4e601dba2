package volume

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/plugin"
	"github.com/wherry-engine/wherry/internal/plugin/plugintest"
)

// withDriver opens a store beside a plugin "ours".
func withDriver(t *testing.T, root string) (s *Store, v *plugintest.Volumes, p *plugintest.Server) {
	t.Helper()
	dir, err := os.MkdirTemp("", "plug") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	v = &plugintest.Volumes{Dir: t.TempDir()}
	p = v.Server()
	if err := p.Listen(filepath.Join(dir, "ours.sock")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	if s, err = Open(root, (&recorder{}).publish, plugin.New([]string{dir}, nil)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, v, p
}

func TestDriver(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	s, theirs, _ := withDriver(t, root)
	v := make1(t, s, Request{Name: "data", Driver: "ours", Options: map[string]string{"type": "anything", "size": "much"}, Labels: map[string]string{"a": "b"}})
	if again := make1(t, s, Request{Name: "data"}); again != v {
		t.Error("without a driver it is another volume")
	}
	if _, err := s.Create(t.Context(), Request{Name: "data", Driver: DriverLocal}); !errdefs.IsConflict(err) {
		t.Error(err)
	}
	one, err := s.Inspect(t.Context(), "data")
	if err != nil || one.Driver != "ours" || one.Scope != "global" || one.Mountpoint != filepath.Join(theirs.Dir, "data") || one.Labels["a"] != "b" || one.Status["options"] == nil {
		t.Errorf("%+v %v", one, err)
	}

	// Mounted once for a container, whatever it does with it.
	layer := t.TempDir()
	if err := os.MkdirAll(filepath.Join(layer, "d", "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Populate(t.Context(), "data", []string{layer}, "/d"); err != nil {
		t.Fatal(err)
	}
	if n := theirs.Mounted("data"); n != 0 {
		t.Errorf("mounted %d times after the copy", n)
	}
	for _, r := range []Run{{Volume: "data", Container: "c1", Destination: "/a"}, {Volume: "data", Container: "c1", Destination: "/b", Subpath: "sub"}, {Volume: "data", Container: "c2", Destination: "/a"}} {
		p, err := s.Mount(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if r.Subpath == "" && p.Source != filepath.Join(theirs.Dir, "data") || p.Mountpoint == "" {
			t.Errorf("%+v: %+v", r, p)
		}
		s.Started(p)
	}
	if _, err := s.Mount(t.Context(), Run{Volume: "data", Container: "c3", Subpath: "nothere"}); err == nil {
		t.Error("a subpath that is not there")
	}
	if n := theirs.Mounted("data"); n != 2 {
		t.Errorf("mounted %d times, want 2", n)
	}
	s.Unmount("data", "c1")
	s.Unmount("data", "c1")
	if n := theirs.Mounted("data"); n != 1 {
		t.Errorf("mounted %d times, want 1", n)
	}

	// The next engine goes on where this one ends.
	s.Close()
	s2, err := Open(root, (&recorder{}).publish, s.drivers.plugins)
	if err != nil {
		t.Fatal(err)
	}
	if err := s2.Adopt("data", "c2", "/a", 0, os.Getpid()); err != nil {
		t.Fatal(err)
	}
	s2.Unmount("data", "c2")
	if n := theirs.Mounted("data"); n != 0 {
		t.Errorf("mounted %d times at the end", n)
	}
	if err := s2.Delete(t.Context(), "data", false); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(theirs.Dir, "data")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the plugin has it still: %v", err)
	}
}

// TestDriverOutside: volumes that the plugin has by itself are there too.
func TestDriverOutside(t *testing.T) {
	s, theirs, p := withDriver(t, t.TempDir())
	for _, name := range []string{"early", "spare"} {
		if err := os.Mkdir(filepath.Join(theirs.Dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	make1(t, s, Request{Name: "here"})
	names := func(f filter.Args) (out []string) {
		l, err := s.List(t.Context(), f)
		if err != nil || len(l.Warnings) > 0 {
			t.Fatal(err, l.Warnings)
		}
		for _, v := range l.Volumes {
			out = append(out, v.Name+" "+v.Driver)
		}
		return out
	}
	if got := names(nil); !slices.Equal(got, []string{"early ours", "here local", "spare ours"}) {
		t.Errorf("%q", got)
	}
	if got := names(filter.Args{"driver": {"ours"}, "name": {"ear"}}); !slices.Equal(got, []string{"early ours"}) {
		t.Errorf("%q", got)
	}
	if one, err := s.Inspect(t.Context(), "early"); err != nil || one.Driver != "ours" {
		t.Error(one, err)
	}
	if v := make1(t, s, Request{Name: "early", For: "c1"}); v.Driver != "ours" {
		t.Errorf("early is a volume of %s", v.Driver)
	}
	if err := s.Delete(t.Context(), "early", false); !errdefs.IsConflict(err) {
		t.Error(err)
	}
	if err := s.Delete(t.Context(), "spare", false); err != nil {
		t.Error(err)
	}
	if slices.Contains(p.Asked(), "VolumeDriver.Create") {
		t.Error("the plugin was asked to make what it has")
	}
	if got := s.Drivers(); !slices.Equal(got, []string{"local", "ours"}) {
		t.Errorf("%q", got)
	}
}

func TestDriverFailures(t *testing.T) {
	needRoot(t)
	s, theirs, p := withDriver(t, t.TempDir())
	_, err := s.Create(t.Context(), Request{Name: "vol", Driver: "ours", Options: map[string]string{"refuse": "too many"}})
	if err == nil || err.Error() != "create vol: VolumeDriver.Create: refused: too many" {
		t.Error(err)
	}
	if _, err := s.Get("vol"); !errdefs.IsNotFound(err) {
		t.Error("a refused volume is there")
	}
	make1(t, s, Request{Name: "vol", Driver: "ours"})
	mountpoint := p.Handlers["VolumeDriver.Mount"]
	for path, want := range map[string]string{"": "which cannot be a volume's", "relative": "which cannot be a volume's", "/": "which cannot be a volume's", "/no/such/place": "has mounted it at /no/such/place: no such file"} {
		p.Handlers["VolumeDriver.Mount"] = func([]byte) (any, error) { return map[string]string{"Mountpoint": path}, nil }
		if _, err := s.Mount(t.Context(), Run{Volume: "vol", Container: "c1"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", path, err)
		}
	}
	p.Handlers["VolumeDriver.Mount"] = mountpoint
	p.Handlers["VolumeDriver.Remove"] = func([]byte) (any, error) { return nil, errors.New("not now") }
	if err := s.Delete(t.Context(), "vol", false); err == nil || err.Error() != "remove vol: VolumeDriver.Remove: not now" {
		t.Error(err)
	}
	if _, err := s.Get("vol"); err != nil {
		t.Error("it was forgotten without force")
	}
	p.Handlers["VolumeDriver.List"] = func([]byte) (any, error) { return nil, errors.New("no idea") }
	l, err := s.List(t.Context(), nil)
	if err != nil || len(l.Volumes) != 1 || len(l.Warnings) != 1 || l.Warnings[0] != "VolumeDriver.List: no idea" {
		t.Errorf("%+v %v", l, err)
	}
	if err := s.Delete(t.Context(), "vol", true); err != nil {
		t.Error(err)
	}
	if _, err := s.Get("vol"); !errdefs.IsNotFound(err) {
		t.Error("it is there after a removal by force")
	}
	if _, err := os.Stat(filepath.Join(theirs.Dir, "vol")); err != nil {
		t.Error(err)
	}
}
