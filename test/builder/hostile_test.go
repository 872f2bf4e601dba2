package builder

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// bait is a directory of the host with a file that no build may see or change.
func bait(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bait"), []byte("untouched"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// untouched fails when something happened to the bait.
func untouched(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%s: %v %v", dir, entries, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "bait")); err != nil || string(b) != "untouched" {
		t.Errorf("%s/bait: %q %v", dir, b, err)
	}
}

// hostile builds a Dockerfile by both ways and gives what was printed.
func hostile(t *testing.T, e *harness.Engine, text string) (string, bool) {
	t.Helper()
	harness.Require(t, "docker28")
	dir := files(t, map[string]string{"Dockerfile": text, "f": "x"})
	out, code := client(t, e, nil, nil, buildx(t, e)[1], "build", "--no-cache", "--progress", "plain", "-t", "hostile", dir)
	return out, code == 0
}

// A source of a bind mount that is a link stays inside of what it lies in, for
// reading and for writing. What was mounted leaves no trace outside when it is
// cleaned up.
func TestCVE_2024_1753_2024_11218_MountSource(t *testing.T) {
	e := engine(t, "")
	host := bait(t)
	out, ok := hostile(t, e, fmt.Sprintf(`FROM busybox AS a
RUN ln -s / /link && mkdir -p /d && ln -s ../../../../../../../../.. /d/up && ln -s %[1]s /abs
FROM busybox
RUN --mount=type=bind,from=a,source=/link,target=/m,rw ls /m && test -L /m/link && test ! -e /m%[1]s/bait && touch /m/new
RUN --mount=type=bind,from=a,source=/d/up,target=/m,rw test -L /m/link && test ! -e /m%[1]s/bait && echo kept
`, host))
	if !ok || !strings.Contains(out, "kept") {
		t.Errorf("links inside of a stage:\n%s", out)
	}
	out, ok = hostile(t, e, "FROM busybox AS a\nRUN ln -s "+host+" /abs\nFROM busybox\nRUN --mount=type=bind,from=a,source=/abs,target=/m,rw cat /m/bait; touch /m/new\n")
	if ok || strings.Contains(out, "untouched") {
		t.Errorf("an absolute link was followed out of its stage:\n%s", out)
	}
	untouched(t, host)
}

// A part of a cache mount that another step exchanges for a link meanwhile.
func TestCVE_2024_23651_CacheMountRace(t *testing.T) {
	e := engine(t, "")
	host := bait(t)
	flip := fmt.Sprintf("FROM busybox\nRUN --mount=type=cache,id=race,target=/c i=0; while [ $i -lt 3000 ]; do rm -rf /c/sub; mkdir /c/sub; rm -rf /c/sub; ln -s %s /c/sub; i=$((i+1)); done\n", host)
	var wg sync.WaitGroup
	wg.Go(func() { hostile(t, e, flip) })
	for range 6 {
		out, _ := hostile(t, e, "FROM busybox\nRUN --mount=type=cache,id=race,source=sub,target=/m cat /m/bait; touch /m/new; true\n")
		if strings.Contains(out, "untouched") {
			t.Errorf("the host's files were mounted:\n%s", out)
		}
	}
	wg.Wait()
	untouched(t, host)
}

// The mount points that a step leaves are removed inside of its root only.
func TestCVE_2024_23652_MountStubs(t *testing.T) {
	e := engine(t, "")
	host := bait(t)
	out, ok := hostile(t, e, fmt.Sprintf(`FROM busybox
RUN mkdir -p %[1]s && ln -s %[1]s /evil && ln -s %[1]s/empty /other
RUN --mount=type=tmpfs,target=/evil/empty --mount=type=bind,target=/evil/sub ls /evil
RUN --mount=type=cache,target=/other true; rm -rf /evil; ln -s / /evil
RUN --mount=type=tmpfs,target=/evil/%[1]s/empty true
`, host))
	if !ok {
		t.Errorf("\n%s", out)
	}
	untouched(t, host)
}

// An identifier of a cache mount is no path.
func TestCVE_2024_9675_CacheMountID(t *testing.T) {
	e := engine(t, "")
	host := bait(t)
	for _, id := range []string{host, "../../../../../../../.." + host, "a/../../../../../.." + host} {
		if out, ok := hostile(t, e, "FROM busybox\nRUN --mount=type=cache,id="+id+",target=/c test ! -e /c/bait && touch /c/new\n"); !ok {
			t.Errorf("id %s:\n%s", id, out)
		}
	}
	untouched(t, host)
}

// What a step would be granted is asked of the client and of the engine's
// settings, and refused by default.
func TestCVE_2024_23653_Entitlements(t *testing.T) {
	e := engine(t, "")
	bx := buildx(t, e)
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN --security=insecure grep CapEff /proc/self/status\n"})
	for _, more := range [][]string{nil, {"--allow", "security.insecure"}} {
		args := append([]string{bx[1], "build", "--no-cache", "--progress", "plain"}, more...)
		out, code := client(t, e, nil, nil, append(args, dir)...)
		if code == 0 || !strings.Contains(out, "security.insecure") || strings.Contains(out, "CapEff:") {
			t.Errorf("%v: exit %d\n%s", more, code, out)
		}
	}
	if out, ok := hostile(t, e, "FROM busybox\nRUN --network=host true\n"); ok || !strings.Contains(out, "network.host") {
		t.Errorf("the host's network without a grant:\n%s", out)
	}
}

// A context's address never becomes an option of git.
func TestCVE_2019_13139_GitArguments(t *testing.T) {
	e := engine(t, "")
	dir := t.TempDir()
	for _, remote := range []string{
		"git://127.0.0.1:1/x.git%23--upload-pack=touch%20" + dir + "/pwned:.", "--upload-pack=touch%20" + dir + "/pwned.git",
		"git@127.0.0.1:--upload-pack=touch%20" + dir + "/pwned.git", "ssh://-oProxyCommand=touch%20" + dir + "/pwned/x.git",
	} {
		code, body, err := e.API("POST", "/v1.41/build?remote="+remote, nil)
		if err != nil || code == 200 && !strings.Contains(string(body), "errorDetail") {
			t.Errorf("%s: %d %s %v", remote, code, body, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("git did as it was told: %v %v", entries, err)
	}
}

// An image that says of itself to be the result of a step is not taken for it.
func TestCVE_2024_24557_CachePoisoning(t *testing.T) {
	e := engine(t, "")
	base, err := harness.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	fake := *base
	fake.Names = []string{"fake:latest"}
	fake.Config.Cmd = []string{"/bin/sh", "-c", "#(nop) ", "HEALTHCHECK NONE"}
	fake.Layers = append(fake.Layers[:1:1], []harness.File{{Name: "x", Mode: 0o644, Data: []byte("poisoned\n")}})
	if err := e.Load(fake.DockerArchive()); err != nil {
		t.Fatal(err)
	}
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nHEALTHCHECK NONE\nRUN echo good > /x\n"})
	docker(t, e, classicEnv, "build", "--cache-from", "fake", "-t", "t", dir)
	if out, _, _, err := e.CLI("run", "--rm", "t", "cat", "/x"); err != nil || out != "good\n" {
		t.Errorf("%q %v", out, err)
	}
}

// Paths of COPY and ADD, and archives, stay inside.
func TestCopyStaysInside(t *testing.T) {
	e := engine(t, "")
	host := bait(t)
	for _, text := range []string{
		"FROM busybox\nCOPY ../../../../../../../.." + host + "/bait /x\nRUN cat /x\n",
		"FROM busybox AS a\nFROM busybox\nCOPY --from=a ../../../../../../../.." + host + "/bait /x\nRUN cat /x\n",
		"FROM busybox AS a\nRUN ln -s " + host + " /l\nFROM busybox\nCOPY --from=a /l/bait /x\nRUN cat /x\n",
	} {
		if out, ok := hostile(t, e, text); ok || strings.Contains(out, "untouched") {
			t.Errorf("%s\n%s", text, out)
		}
	}
	if out, ok := hostile(t, e, "FROM busybox\nRUN ln -s "+host+" /l\nCOPY f /l/new\nCOPY f ../../../../.."+host+"/new2\nWORKDIR ../../../../.."+host+"/w\n"); !ok {
		t.Errorf("\n%s", out)
	}
	untouched(t, host)
}

// What an archive of a build says of a file that was copied before it, by a link
// in the archive, is that of no file but the build's own: neither the context's
// nor, by that, another image's.
func TestLinkInArchive(t *testing.T) {
	e := engine(t, "")
	var evil bytes.Buffer
	w := tar.NewWriter(&evil)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: "other", Linkname: "large", Mode: 0o4777, Uid: 7, Gid: 7}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := files(t, map[string]string{
		"Dockerfile": "FROM busybox\nCOPY sub /\n", "evil": "FROM busybox\nADD sub evil.tar /\n",
		"sub/large": strings.Repeat("x", 2<<20), "evil.tar": evil.String(),
	})
	wherry(t, e, "build", "-q", "-t", "good", dir)
	look := []string{"stat", "-c", "%a %u %g", "/large"}
	before := inside(t, e, "good", look...)
	wherry(t, e, "build", "-q", "-t", "evil", "-f", filepath.Join(dir, "evil"), dir)
	if got := inside(t, e, "evil", look...); got != "4777 7 7\n" {
		t.Errorf("the image with the archive has %q", got)
	}
	if after := inside(t, e, "good", look...); after != before {
		t.Errorf("the image had %q, and has %q", before, after)
	}
}

// Files deeper than a path can tell, which any program can make, are no layer; they
// keep nobody from the account of the disk, and go with a prune.
func TestTooDeep(t *testing.T) {
	e := engine(t, "")
	const deep = "mkdir /deep; cd /deep; while mkdir dir && cd dir 2>/dev/null; do :; done; echo x >file"
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN " + deep + "\n"})
	out, code := client(t, e, nil, nil, harness.Binary("wherry"), "build", "--progress", "plain", dir)
	if code == 0 || !strings.Contains(out, "file name too long") {
		t.Errorf("built: exit %d\n%s", code, out)
	}
	wherry(t, e, "run", "--name", "deep", "busybox", "sh", "-c", deep)
	for _, args := range [][]string{{"system", "df", "-v"}, {"builder", "du"}, {"ps", "-as"}, {"rm", "deep"}, {"builder", "prune", "-af"}} {
		wherry(t, e, args...)
	}
	if total, records := usage(t, e); records > 1 { // the history of builds
		t.Errorf("%d bytes in %d records", total, records)
	}
}
