package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/test/harness"
)

// An archive that is posted as context is named as what it is when it is none,
// and leaves nothing.
func TestPostedArchives(t *testing.T) {
	e := engine(t, "")
	whole := pack(map[string]string{"f": strings.Repeat("x", 1<<20), "Dockerfile": "FROM busybox\nCOPY f /f\n"}).Bytes()
	for _, c := range []struct {
		name, want string
		body       []byte
	}{
		{"a Dockerfile", "Error processing tar file: archive/tar: invalid tar header", []byte("FROM busybox\n" + strings.Repeat("#\n", 512))},
		{"nothing", "Cannot locate specified Dockerfile: Dockerfile", nil},
		{"an empty archive", "Cannot locate specified Dockerfile: Dockerfile", make([]byte, 1024)},
		{"half of one", "Error processing tar file: unexpected EOF", whole[:1<<19]},
		{"one that is damaged behind 2 MB", "Error processing tar file: archive/tar: invalid tar header", append(bytes.Clone(whole[:len(whole)-1024]), bytes.Repeat([]byte("x"), 1<<20)...)},
	} {
		code, body, err := e.API("POST", "/v1.41/build", bytes.NewReader(c.body))
		if err != nil || code != 400 || !strings.Contains(string(body), `"`+c.want+`"`) {
			t.Errorf("%s: %d %s %v", c.name, code, body, err)
		}
	}
	eventually(t, "the cache is empty", func() bool { n, _ := usage(t, e); return n == 0 })
	for range 2 { // the second time nothing is new
		if code, body, err := e.API("POST", "/v1.41/build?t=t", bytes.NewReader(whole)); err != nil || code != 200 || !strings.Contains(string(body), "Successfully built") {
			t.Errorf("%d %s %v", code, body, err)
		}
	}
	// Half of it changes nothing, so that what is there stays.
	before := inodes(t, e, "f")
	if code, body, err := e.API("POST", "/v1.41/build?t=t", bytes.NewReader(whole[:1<<19])); err != nil || code != 400 {
		t.Errorf("%d %s %v", code, body, err)
	}
	if code, body, err := e.API("POST", "/v1.41/build?t=t", bytes.NewReader(whole)); err != nil || code != 200 {
		t.Errorf("%d %s %v", code, body, err)
	}
	if after := inodes(t, e, "f"); len(after) == 0 || !maps.Equal(before, after) {
		t.Errorf("the file was %v, and is %v", before, after)
	}
	if out := inside(t, e, "t", "sh", "-c", "wc -c < /f"); out != "1048576\n" {
		t.Errorf("the file has %q bytes", out)
	}
}

// An archive may have a name twice: the last counts, and what a name is that
// stands for the first is not taken from the cache by the last's digest.
func TestPostedTwice(t *testing.T) {
	e := engine(t, "")
	type member struct {
		kind       byte
		name, text string
	}
	archive := func(list ...member) *bytes.Buffer {
		t.Helper()
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, m := range list {
			h := &tar.Header{Typeflag: m.kind, Name: m.name, Mode: 0o755}
			if m.kind == tar.TypeLink {
				h.Linkname = m.text
			} else {
				h.Size = int64(len(m.text))
			}
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if h.Size > 0 {
				io.WriteString(w, m.text)
			}
		}
		w.Close()
		return &b
	}
	for _, text := range []string{"one", "one", "two", "three"} {
		body := archive(member{tar.TypeReg, "Dockerfile", "FROM busybox\nCOPY g /g\nCOPY d /d\n"},
			member{tar.TypeReg, "f", text}, member{tar.TypeLink, "g", "f"}, member{tar.TypeReg, "f", "last"},
			member{tar.TypeDir, "d", ""}, member{tar.TypeReg, "d/below", "x"}, member{tar.TypeReg, "d", text})
		if code, answer, err := e.API("POST", "/v1.41/build?t=t", body); err != nil || code != 200 || !strings.Contains(string(answer), "Successfully built") {
			t.Fatalf("%s: %d %s %v", text, code, answer, err)
		}
		if got := inside(t, e, "t", "cat", "/g", "/d"); got != text+text {
			t.Errorf("%s: /g and /d are %q", text, got)
		}
	}
}

// Half a context goes with the client that sent it, and with the engine.
func TestPostedMidway(t *testing.T) {
	e := engine(t, "")
	whole := pack(map[string]string{"midway": strings.Repeat("x", 4<<20)}).Bytes()
	there := func() bool { return found(t, e, "midway") }
	build := func() {
		t.Helper()
		body := pack(map[string]string{"Dockerfile": "FROM busybox\n"})
		if code, answer, err := e.API("POST", "/v1.41/build?t=t", body); err != nil || code != 200 {
			t.Fatal(code, string(answer), err)
		}
	}
	for name, end := range map[string]func(cancel func()){
		"the client": func(cancel func()) { cancel() },
		"the engine": func(cancel func()) {
			e.Kill()
			cancel()
			if err := e.Start(); err != nil {
				t.Fatal(err)
			}
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		r, w := io.Pipe()
		req, err := http.NewRequestWithContext(ctx, "POST", "http://engine/v1.41/build?t=t", r)
		if err != nil {
			t.Fatal(err)
		}
		client, ended := e.HTTP(), make(chan error)
		go func() {
			resp, err := client.Do(req)
			if err == nil {
				resp.Body.Close()
			}
			ended <- err
		}()
		if _, err := w.Write(whole[:2<<20]); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a part of the context is there", there)
		end(cancel)
		w.Close()
		<-ended
		build()
		eventually(t, "nothing is left with "+name, func() bool { return !there() })
	}
}

// inodes gives the files of that name in layers.
func inodes(t *testing.T, e *harness.Engine, name string) map[uint64]bool {
	t.Helper()
	list := map[uint64]bool{}
	err := filepath.WalkDir(e.DataRoot()+"/layers", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == name && d.Type().IsRegular() {
			var st unix.Stat_t
			if err = unix.Lstat(path, &st); err == nil {
				list[st.Ino] = true
			}
		}
		if os.IsNotExist(err) {
			return nil // it goes while this looks
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// found tells whether a file has that name in some layer.
func found(t *testing.T, e *harness.Engine, name string) bool {
	t.Helper()
	return len(inodes(t, e, name)) > 0
}
