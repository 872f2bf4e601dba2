package volume

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/wherry-engine/wherry/internal/linux/quota/quotatest"
)

// TestRoot: owner and mode that were asked for, also after content was copied in.
func TestRoot(t *testing.T) {
	needRoot(t)
	s, _ := newStore(t)
	v := make1(t, s, Request{Name: "vol", Options: map[string]string{"uid": "7", "gid": "8", "mode": "2750"}})
	root := func() string {
		var st syscall.Stat_t
		if err := syscall.Stat(v.Path(), &st); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%d %d %o", st.Uid, st.Gid, st.Mode&0o7777)
	}
	if got := root(); got != "7 8 2750" {
		t.Error(got)
	}
	layer := t.TempDir()
	if err := os.MkdirAll(filepath.Join(layer, "data", "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Populate(t.Context(), "vol", []string{layer}, "/data"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(v.Path(), "sub")); err != nil || root() != "7 8 2750" {
		t.Error(err, root())
	}
	for option, want := range map[string]string{"uid": "expected a number", "gid": "expected a number", "mode": "expected an octal number", "size": "invalid size"} {
		_, err := s.Create(t.Context(), Request{Name: "bad", Options: map[string]string{option: "x"}})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", option, err)
		}
	}
}

func TestLimit(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := quotatest.Mounted(t, kind)
			s, err := Open(dir, (&recorder{}).publish, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			v := make1(t, s, Request{Name: "vol", Options: map[string]string{"size": "1m"}})
			layer := t.TempDir()
			if err := os.MkdirAll(filepath.Join(layer, "data", "sub"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := s.Populate(t.Context(), "vol", []string{layer}, "/data"); err != nil {
				t.Fatal(err)
			}
			if err := quotatest.Write(filepath.Join(v.Path(), "sub", "some"), 512); err != nil {
				t.Error(err)
			}
			if err := quotatest.Write(filepath.Join(v.Path(), "more"), 1024); !quotatest.Full(err) {
				t.Errorf("more than the limit: %v", err)
			}
			free := make1(t, s, Request{Name: "free"})
			if err := quotatest.Write(filepath.Join(free.Path(), "much"), 4096); err != nil {
				t.Error(err)
			}
			if err := s.Remove("vol"); err != nil {
				t.Error(err)
			}
		})
	}
}
