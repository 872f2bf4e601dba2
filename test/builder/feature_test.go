package builder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// remapped starts an engine with userns-remap.
func remapped(t *testing.T) *harness.Engine {
	t.Helper()
	e := engine(t, "")
	if err := e.OverEtc(files(t, map[string]string{"subuid": "dockremap:200000:65536\n", "subgid": "dockremap:200000:65536\n"})); err != nil {
		t.Fatal(err)
	}
	if err := e.Restart("--userns-remap", "default"); err != nil {
		t.Fatal(err)
	}
	return e
}

// With userns-remap the root of a step is nobody on the host, and what it makes
// has the owners that the image is to have.
func TestRemapped(t *testing.T) {
	e := remapped(t)
	dir := files(t, map[string]string{"f": "x", "Dockerfile": `FROM busybox AS a
COPY --chown=7:8 f /f
RUN --mount=type=bind,target=/ctx --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=type=secret,id=s \
    stat -c "%u:%g %n" /f /ctx/f /c /t /run/secrets/s /etc/hosts > /seen && cat /proc/self/uid_map /run/secrets/s >> /seen && \
    touch /c/new /t/new /root/new && chown 5:6 /root/new && stat -c "%u:%g %n" /c/new /root/new >> /seen
USER 1000
RUN id -u > /tmp/user; grep -c $(hostname) /etc/hosts >> /tmp/user; ip -4 addr show eth0 | grep -c inet >> /tmp/user
RUN --network=none ls /sys/class/net > /tmp/none
FROM scratch AS s
COPY --from=a /seen /seen
COPY --from=a /bin /bin
RUN ["/bin/touch", "/first"]
FROM a
COPY --from=s /first /first
`, "secret": "hidden"})
	out, code := client(t, e, nil, nil, harness.Binary("wherry"), "build", "--progress", "plain", "--secret", "id=s,src="+dir+"/secret", "-t", "t", dir)
	if code != 0 {
		t.Fatalf("exit %d\n%s", code, out)
	}
	got, stderr, code, err := e.CLI("run", "--rm", "-u", "0", "t", "sh", "-c", "cat /seen /tmp/user /tmp/none; stat -c '%u:%g %n' /seen /first /root/new /tmp/user")
	if err != nil || code != 0 {
		t.Fatal(stderr, code, err)
	}
	lines := strings.Split(got, "\n")
	for i, l := range lines {
		lines[i] = strings.Join(strings.Fields(l), " ")
	}
	want := "7:8 /f\n0:0 /ctx/f\n0:0 /c\n0:0 /t\n0:0 /run/secrets/s\n0:0 /etc/hosts\n0 200000 65536\nhidden0:0 /c/new\n5:6 /root/new\n" +
		"1000\n1\n1\nlo\n0:0 /seen\n0:0 /first\n5:6 /root/new\n1000:0 /tmp/user\n"
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}

	for _, args := range [][]string{{"network", "create", "backend"}, {"run", "-d", "--network", "backend", "--network-alias", "store", "busybox", "sleep", "1000"}} {
		if _, stderr, code, err := e.CLI(args...); err != nil || code != 0 {
			t.Fatal(args, stderr, code, err)
		}
	}
	dir = files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN grep -q 127.0.0.11 /etc/resolv.conf && ping -c1 -w5 store && ip -4 addr show eth0 | grep -q inet"})
	if out, code := client(t, e, nil, nil, harness.Binary("wherry"), "build", "--progress", "plain", "--network", "backend", dir); code != 0 {
		t.Errorf("a network of one's own: exit %d\n%s", code, out)
	}
	// Two steps at once see the same cache mount, which lies over files of an image.
	step := func(me, other string) string {
		return "FROM busybox AS " + me + "\nRUN --mount=type=cache,id=both,from=busybox,target=/c touch /c/" + me + " && " +
			"for i in $(seq 2000); do test -e /c/" + other + " && exit; usleep 10000; done; exit 1\n"
	}
	dir = files(t, map[string]string{"Dockerfile": step("one", "two") + step("two", "one") + "FROM one\nCOPY --from=two /etc/passwd /p\n"})
	if out, code := client(t, e, nil, nil, harness.Binary("wherry"), "build", "--progress", "plain", dir); code != 0 {
		t.Errorf("a shared cache mount: exit %d\n%s", code, out)
	}
	// For reading first, and then for writing; what is bound of an image has its owners.
	dir = files(t, map[string]string{"Dockerfile": `FROM busybox AS owned
RUN touch /bin/mine && chown 7:8 /bin/mine
FROM busybox
RUN --mount=type=cache,id=ro,from=owned,source=/bin,target=/c,ro ! touch /c/x && stat -c "%u:%g" /c/mine > /seen
RUN --mount=type=cache,id=ro,from=owned,source=/bin,target=/c touch /c/x && chown 5 /c/x
RUN --mount=type=cache,id=ro,from=owned,source=/bin,target=/c,ro --mount=type=bind,from=owned,target=/b stat -c "%u:%g" /c/x /b/bin/mine /b/bin/busybox >> /seen
RUN test "$(echo $(cat /seen))" = "7:8 5:0 7:8 0:0"
`})
	if out, code := client(t, e, nil, nil, harness.Binary("wherry"), "build", "--progress", "plain", "-t", "bound", dir); code != 0 {
		t.Errorf("a cache mount for reading: exit %d\n%s", code, out)
	}
	if out, code := client(t, e, nil, nil, harness.Binary("wherry"), "build", "--progress", "plain", "-t", "owned", "--target", "owned", dir); code != 0 {
		t.Errorf("exit %d\n%s", code, out)
	}
	if out := inside(t, e, "owned", "stat", "-c", "%u:%g", "/bin/mine"); out != "7:8\n" {
		t.Errorf("a layer that was bound: %q", out)
	}
	for text, want := range map[string]string{
		"FROM busybox\nRUN --network=host true\n": "cannot share the host's network namespace when user namespaces are enabled",
	} {
		dir := files(t, map[string]string{"Dockerfile": text})
		out, code := client(t, e, nil, nil, harness.Binary("wherry"), "build", "--allow", "network.host", dir)
		if code == 0 || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d\n%s", text, code, out)
		}
	}
}

// RUN --device gives a step what a specification on the host describes, if the
// client allows it.
func TestDevice(t *testing.T) {
	specs := t.TempDir()
	harness.Require(t, "engine", "busybox")
	e := harness.Run(t, harness.Options{Config: `{"cdi-spec-dirs":["` + specs + `"]}`})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN --device=wherry.test/null=one,required test -c /dev/one && echo > /dev/one && echo $ONE > /seen\nRUN test ! -e /dev/one\n"})
	build := func(more ...string) (string, int) {
		args := append([]string{harness.Binary("wherry"), "build", "--progress", "plain", "-t", "t"}, more...)
		return client(t, e, nil, nil, append(args, dir)...)
	}
	if out, code := build("--allow", "device=wherry.test/null"); code == 0 || !strings.Contains(out, `required device "wherry.test/null=one" is not registered`) {
		t.Errorf("a device that nothing describes: exit %d\n%s", code, out)
	}
	// The engine runs already: what is installed is there at once.
	if err := os.WriteFile(filepath.Join(specs, "wherry.json"), []byte(`{"cdiVersion":"0.6.0","kind":"wherry.test/null","devices":[{"name":"one","containerEdits":{
		"env":["ONE=1"],"deviceNodes":[{"path":"/dev/one","hostPath":"/dev/null"}]}}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, code := build(); code == 0 || !strings.Contains(out, "device wherry.test/null=one is requested by the build but not allowed") {
		t.Errorf("a device that is not allowed: exit %d\n%s", code, out)
	}
	if out, code := build("--allow", "device=wherry.test/null"); code != 0 {
		t.Fatalf("exit %d\n%s", code, out)
	}
	if out, stderr, _, err := e.CLI("run", "--rm", "t", "cat", "/seen"); err != nil || out != "1\n" {
		t.Errorf("%q %q %v", out, stderr, err)
	}
	out, code := client(t, e, nil, nil, buildx(t, e)[1], "build", "--progress", "plain", "--no-cache", "--allow", "device", dir)
	if code != 0 {
		t.Errorf("buildx: exit %d\n%s", code, out)
	}
}
