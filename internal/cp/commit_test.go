package cp

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	apicontainer "github.com/moby/moby/api/types/container"
)

func TestCommitted(t *testing.T) {
	had := &apicontainer.Config{
		User: "me", Env: []string{"A=1", "B=2"}, Cmd: []string{"run"}, Entrypoint: []string{"/e"}, WorkingDir: "/w",
		Labels: map[string]string{"k": "v"}, Volumes: map[string]struct{}{"/vol": {}},
	}
	got, err := committed(nil, []string{"ENV B=3 C=4", "LABEL k=new l=1", "USER you"}, had)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"A=1", "B=3", "C=4"}, got.Env); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]string{"k": "new", "l": "1"}, got.Labels); d != "" {
		t.Error(d)
	}
	if got.User != "you" || got.WorkingDir != "/w" || len(got.Volumes) != 1 || had.Env[1] != "B=2" || had.Labels["k"] != "v" {
		t.Errorf("%+v from %+v", got, had)
	}
	for _, c := range []struct {
		changes         []string
		entrypoint, cmd []string
	}{
		{nil, []string{"/e"}, []string{"run"}},
		{[]string{`CMD ["x"]`}, []string{"/e"}, []string{"x"}},
		{[]string{`ENTRYPOINT ["y"]`}, []string{"y"}, nil},
		{[]string{"entrypoint [\"y\"]\nCMD [\"x\"]"}, []string{"y"}, []string{"x"}},
	} {
		got, err := committed(nil, c.changes, had)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([][]string{c.entrypoint, c.cmd}, [][]string{got.Entrypoint, got.Cmd}); d != "" {
			t.Errorf("%q: %s", c.changes, d)
		}
	}
	// What the client sends wins; the rest is the container's.
	got, err = committed(&apicontainer.Config{Env: []string{"B=9"}, User: "root"}, nil, had)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"B=9", "A=1"}, got.Env); d != "" || got.User != "root" || got.Cmd[0] != "run" {
		t.Errorf("%+v", got)
	}
}

func TestAbsolute(t *testing.T) {
	for in, want := range map[string]string{
		"": "/", ".": "/.", "/": "/", "/.": "/.", "a": "/a", "a/": "/a/", "/a/.": "/a/.", "/a/..": "/", "/../../a": "/a", "a//b/./c": "/a/b/c",
	} {
		if got := absolute(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

func TestIDs(t *testing.T) {
	m := ids{uids: [][3]uint32{{0, 1000, 1}, {1, 100000, 100}}, gids: [][3]uint32{{0, 1000, 1}}}
	for host, want := range map[uint32]int{1000: 0, 100000: 1, 100099: 100, 100100: nobody, 0: nobody} {
		if got, _ := m.inside(host, 0); got != want {
			t.Errorf("host's %d is %d, want %d", host, got, want)
		}
	}
	for in, want := range map[int]int{0: 1000, 100: 100099, 101: 1000} {
		if got, _ := m.outside(in, 0); got != want {
			t.Errorf("container's %d is %d, want %d", in, got, want)
		}
	}
	if uid, gid := (&ids{}).inside(5, 6); uid != 5 || gid != 6 {
		t.Errorf("without a namespace 5:6 is %d:%d", uid, gid)
	}
}
