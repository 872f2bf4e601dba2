package build

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/internal/archive"
	"github.com/wherry-engine/wherry/test/harness"
)

// plain is a layer without its compression.
func plain(b []byte) (io.Reader, error) {
	r, _, err := archive.Decompress(bytes.NewReader(b))
	return r, err
}

// images are what Dockerfiles stand on.
func images() ([]*harness.Image, error) {
	box, err := harness.Busybox()
	if err != nil {
		return nil, err
	}
	// As any image that is made for containers: builders mount over these.
	box.Layers[0] = append(box.Layers[0], harness.File{Name: "dev/", Mode: 0o755}, harness.File{Name: "proc/", Mode: 0o555}, harness.File{Name: "sys/", Mode: 0o555})
	parent := *box
	parent.Names = []string{"parent:latest"}
	parent.Config = harness.Config{
		Entrypoint: []string{"/bin/echo", "parent"}, Cmd: []string{"default"},
		Env: []string{"PATH=/bin", "PARENT=1"}, User: "daemon", WorkingDir: "/srv", StopSignal: "SIGINT",
		Labels: map[string]string{"from": "parent"}, Volumes: map[string]struct{}{"/vol": {}}, ExposedPorts: map[string]struct{}{"1234/tcp": {}},
	}
	parent.Layers = append([][]harness.File{}, append(box.Layers, []harness.File{{Name: "srv/", Mode: 0o755}, {Name: "srv/parent.txt", Mode: 0o644, Data: []byte("parent\n")}})...)
	trigger := *box
	trigger.Names = []string{"trigger:latest"}
	trigger.Config.OnBuild = []string{"COPY a.txt /triggered/", "RUN cp /triggered/a.txt /triggered/b.txt", "ENV TRIGGERED=1"}
	return []*harness.Image{box, &parent, &trigger}, nil
}

// serve offers files over http and a repository over git, inside an engine's
// network namespace.
//
// It serves until the test ends and returns what stands for its addresses in
// Dockerfiles and arguments. The addresses are the same for every builder, so
// that histories are, too.
func serve(t testing.TB, e *harness.Engine) *strings.Replacer {
	t.Helper()
	repo, commit := repository(t)
	mux := http.NewServeMux()
	file := func(name string, data []byte) {
		mux.HandleFunc(name, func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, name, time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC), bytes.NewReader(data))
		})
	}
	file("/hello.txt", []byte("hello\n"))
	file("/tree.tar.gz", tarball(map[string]string{"tree/a": "a\n", "tree/sub/b": "b\n"}))
	file("/context.tar.gz", tarball(map[string]string{"Dockerfile": "FROM busybox\nCOPY c.txt /\n", "c.txt": "c\n"}))
	file("/Dockerfile", []byte("FROM busybox\nRUN echo from a URL > /url\n"))
	mux.Handle("/git/", &cgi.Handler{
		Path: "/usr/lib/git-core/git-http-backend", Root: "/git",
		Env: []string{"GIT_PROJECT_ROOT=" + filepath.Dir(repo), "GIT_HTTP_EXPORT_ALL=1"},
	})
	var l net.Listener
	if err := e.Within(func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:8099")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: mux}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return strings.NewReplacer("@HTTP@", "http://127.0.0.1:8099", "@GIT@", "http://127.0.0.1:8099/git/repo.git", "@COMMIT@", commit)
}

// tarball packs files in the order of their names.
func tarball(files map[string]string) []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	born := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o640, Size: int64(len(files[name])), ModTime: born, Uid: 7, Gid: 8}); err != nil {
			panic(err) // memory
		}
		if _, err := io.WriteString(w, files[name]); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// repository makes a repository whose commits are the same each time.
func repository(t testing.TB) (bare, commit string) {
	t.Helper()
	dir := t.TempDir()
	git := func(args ...string) string {
		cmd := exec.Command("git", args...)
		cmd.Dir = filepath.Join(dir, "work")
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com",
			"GIT_AUTHOR_DATE=2024-05-06T07:08:09Z", "GIT_COMMITTER_DATE=2024-05-06T07:08:09Z")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	write := func(name, text string) {
		path := filepath.Join(dir, "work", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("Dockerfile", "FROM busybox\nCOPY g.txt /\n")
	write("g.txt", "first\n")
	write("sub/Dockerfile", "FROM busybox\nCOPY s.txt /\n")
	write("sub/s.txt", "sub\n")
	git("init", "-q", "-b", "main")
	git("add", ".")
	git("commit", "-q", "-m", "first")
	git("tag", "v1")
	commit = git("rev-parse", "HEAD")
	write("g.txt", "second\n")
	git("commit", "-q", "-a", "-m", "second")
	bare = filepath.Join(dir, "served", "repo.git")
	git("clone", "-q", "--bare", ".", bare)
	return bare, commit
}
