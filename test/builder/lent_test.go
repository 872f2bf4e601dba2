package builder

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestLent builds with large files, which the engine reads itself when its
// socket takes descriptors, and which come as messages when it does not.
func TestLent(t *testing.T) {
	e := engine(t, `{"debug": true}`)
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY . /c\nRUN cat /c/*/* | sha256sum > /sum\n"})
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	change := func() string {
		sum := sha256.New()
		for _, name := range []string{"a", "b", "c"} {
			b := make([]byte, 3<<20+1)
			rand.NewChaCha8([32]byte{byte(rand.Int()), byte(rand.Int()), byte(rand.Int())}).Read(b)
			sum.Write(b)
			if err := os.WriteFile(filepath.Join(dir, "d", name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return fmt.Sprintf("%x", sum.Sum(nil))
	}
	lent := func() int { return strings.Count(e.LogTail(10000), "path=/wherry/build/files") }

	want := change()
	wherry(t, e, "build", "-t", "t", dir)
	if got := inside(t, e, "t", "cat", "/sum"); !strings.HasPrefix(got, want) {
		t.Errorf("a step sees %q, not %s", got, want)
	}
	if n := lent(); n != 1 {
		t.Errorf("files are lent %d times\n%s", n, e.LogTail(20))
	}

	want = change()
	wherry(t, e, "-H", "unix://"+passed(t, e), "build", "-t", "t", dir)
	if got := inside(t, e, "t", "cat", "/sum"); !strings.HasPrefix(got, want) {
		t.Errorf("without descriptors: a step sees %q, not %s", got, want)
	}
	if n := lent(); n != 2 {
		t.Errorf("without descriptors: files were offered %d times\n%s", n, e.LogTail(20))
	}

	// Docker's own clients know nothing of it.
	want = change()
	x := buildx(t, e)
	if out, code := client(t, e, nil, nil, x[1], "build", "--load", "-t", "t", dir); code != 0 {
		t.Fatalf("buildx: exit %d\n%s", code, out)
	}
	if got := inside(t, e, "t", "cat", "/sum"); !strings.HasPrefix(got, want) {
		t.Errorf("buildx: a step sees %q, not %s", got, want)
	}
	if n := lent(); n != 2 {
		t.Errorf("buildx: files are lent, %d", n)
	}
}

// passed is a socket that passes on to the engine's what it reads, but no
// descriptors, as one does that leads to another machine.
func passed(t *testing.T, e *harness.Engine) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", strings.TrimPrefix(e.Host(), "unix://"))
			if err != nil {
				in.Close()
				continue
			}
			pass := func(to, from net.Conn) {
				io.Copy(to, from) //nolint:errcheck // one of them has ended
				to.(*net.UnixConn).CloseWrite()
			}
			go pass(out, in)
			go pass(in, out)
		}
	}()
	return path
}

// TestUnreadable has a file in the context that the client may not read.
func TestUnreadable(t *testing.T) {
	e := engine(t, "")
	for _, c := range []struct {
		name, file string
		size       int
		args       []string
	}{{"small", "f", 10, nil}, {"large", "f", 1 << 20, nil}, {"Dockerfile", "Dockerfile", 0, nil}, {"check", "Dockerfile", 0, []string{"--check"}}} {
		t.Run(c.name, func(t *testing.T) {
			dir := files(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY f /\n", "f": strings.Repeat("x", c.size)})
			path := filepath.Join(dir, c.file)
			if err := errors.Join(os.Chown(path, 1234, 1234), os.Chmod(path, 0o600)); err != nil {
				t.Fatal(err)
			}
			const without = "-dac_override,-dac_read_search"
			args := append([]string{"setpriv", "--bounding-set", without, "--inh-caps", without, harness.Binary("wherry"), "build", "-t", "no", dir}, c.args...)
			out, code := client(t, e, nil, nil, args...)
			want := "ERROR: failed to build: open " + path + ": permission denied: make the file readable, or leave it out in .dockerignore\n"
			if code != 1 || !strings.HasSuffix(out, want) {
				t.Errorf("exit %d, %s", code, out)
			}
		})
	}
}
