package image

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/test/promise"
)

func (f *fixture) save(names ...string) []byte {
	f.t.Helper()
	var b bytes.Buffer
	if err := f.Save(context.Background(), names, nil, &b); err != nil {
		f.t.Fatal(err)
	}
	return b.Bytes()
}

// Save and load in turn must agree on every digest, also with skopeo in between.
func TestSaveRoundTrip(t *testing.T) {
	f := open(t, "")
	f.mustLoad(dockerArchive([]string{"busybox:1", "busybox:2"}, nil, busybox(), gz(tarOf(file{name: "x", body: "x"}))))
	f.mustLoad(dockerArchive([]string{"example.com/other/name:tag"}, nil, busybox()))
	one := f.image("busybox:1")
	out := f.save("busybox", "example.com/other/name:tag")
	if again := f.save("busybox", "example.com/other/name:tag"); !bytes.Equal(out, again) {
		t.Error("saving twice gives two archives")
	}
	g := open(t, "vfs")
	if got, want := g.mustLoad(out), "Loaded image: busybox:1\nLoaded image: busybox:2\nLoaded image: example.com/other/name:tag\n"; got != want {
		t.Errorf("messages %q, want %q", got, want)
	}
	if two := g.image("busybox:1"); two.ID != one.ID || two.Target.Digest != one.Target.Digest || two.Target.MediaType != one.Target.MediaType {
		t.Errorf("after the round trip %v %v, want %v %v", two.ID, two.Target, one.ID, one.Target)
	}

	dir := t.TempDir()
	file := filepath.Join(dir, "saved.tar")
	if err := os.WriteFile(file, f.save("busybox:1"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, src := range []string{"docker-archive:" + file, "oci-archive:" + file} {
		promise.Program(t, "skopeo")
		b, err := exec.Command("skopeo", "--insecure-policy", "inspect", "--raw", src).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", src, err, b)
		}
		var m struct{ Config struct{ Digest string } }
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		if m.Config.Digest != one.ID.String() {
			t.Errorf("%s: config %s, want %s", src, m.Config.Digest, one.ID)
		}
	}
	to := filepath.Join(dir, "again.tar")
	tool(t, "skopeo", "--insecure-policy", "copy", "-q", "--preserve-digests", "oci-archive:"+file, "oci-archive:"+to+":example.com/copied:1")
	b, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	g.mustLoad(b)
	if got := g.image("example.com/copied:1"); got.Target.Digest != one.Target.Digest {
		t.Errorf("manifest after skopeo %s, want %s", got.Target.Digest, one.Target.Digest)
	}
}

func TestImport(t *testing.T) {
	f := open(t, "")
	ctx := context.Background()
	id, err := f.Import(ctx, bytes.NewReader(gz(busybox())), "mine:1", "from a tar", []string{
		`CMD ["sh", "-c", "id"]`, "ENV A=1 B=\"two words\"", "EXPOSE 80 53/udp", "LABEL x=$A y='$A'", "USER 7:8", "WORKDIR /srv", "WORKDIR x",
		"VOLUME /data /more", "STOPSIGNAL SIGINT", "ENTRYPOINT echo hi", "ONBUILD RUN make", "HEALTHCHECK --interval=5s --retries=3 CMD true"}, "")
	if err != nil {
		t.Fatal(err)
	}
	in, err := f.Inspect(ctx, "mine:1", nil, false)
	if err != nil {
		t.Fatal(err)
	}
	c := in.Config
	got := must(json.Marshal([]any{in.ID == id.String(), in.Comment, c.Cmd, c.Env, c.ExposedPorts, c.Labels, c.User, c.WorkingDir, c.Volumes, c.StopSignal, c.Entrypoint, c.OnBuild, c.Healthcheck}))
	want := `[true,"from a tar",["sh","-c","id"],["A=1","B=two words"],{"53/udp":{},"80/tcp":{}},{"x":"1","y":"$A"},"7:8","/srv/x",{"/data":{},"/more":{}},"SIGINT",["/bin/sh","-c","echo hi"],["RUN make"],{"Test":["CMD-SHELL","true"],"Interval":5000000000,"Retries":3}]`
	if string(got) != want {
		t.Errorf("inspect\n%s, want\n%s", got, want)
	}
	for change, message := range map[string]string{
		"RUN ls": "RUN is not a valid change command", "from x": "from is not a valid change command", "ENV A": "ENV must have two arguments",
		"CMD": "CMD requires at least one argument", "EXPOSE x": "invalid containerPort: x", "STOPSIGNAL SIGNO": "invalid signal: SIGNO"} {
		if _, err := f.Import(ctx, bytes.NewReader(busybox()), "", "", []string{change}, ""); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%s: error %v, want %q", change, err, message)
		}
	}
	if _, err := f.Import(ctx, strings.NewReader("this is no tar, but it is long enough to be one "+strings.Repeat("x", 600)), "bad", "", nil, ""); err == nil {
		t.Error("garbage was imported")
	}
	list, err := f.List(ctx, ListOptions{Filters: filter.Args{"label": {"x=1"}}})
	if err != nil || len(list) != 1 || list[0].ID != id.String() {
		t.Errorf("list %v %v", list, err)
	}
	if _, err := f.Remove(ctx, "mine:1", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	f.wantEmpty()
}

func TestBuiltin(t *testing.T) {
	f := open(t, "")
	ctx := context.Background()
	if _, err := f.Resolve(ctx, "hello-world"); err == nil || err.Error() != "No such image: hello-world:latest" {
		t.Errorf("resolve before: %v", err)
	}
	for ref, want := range map[string]bool{"hello-world": true, "docker.io/library/hello-world:latest": true, "hello-world:other": false, "busybox": false, "example.com/hello-world": false} {
		if got, err := f.Builtin(ctx, ref); got != want || err != nil {
			t.Errorf("%s: %v %v, want %v", ref, got, err, want)
		}
	}
	img := f.image("hello-world")
	lower, err := f.Layers(ctx, img)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(lower.Dirs[0], "hello")); err != nil || string(b) != "\x7fELF hello" {
		t.Errorf("hello: %q %v", b, err)
	}
	h, err := f.History(ctx, "hello-world", nil)
	if err != nil || len(h) != 2 || h[0].ID != img.ID.String() || h[1].Size != 10 {
		t.Errorf("history %+v %v", h, err)
	}
}

// A layer that is gone from the disk, or not whole, is named before anything of
// the archive is written. Layers of other platforms may not be here.
func TestSaveDamaged(t *testing.T) {
	f := open(t, "")
	f.mustLoad(dockerArchive([]string{"bad:1"}, nil, tarOf(file{name: "a", body: "a"})))
	layers, err := filepath.Glob(filepath.Join(f.root, "content", "blobs", "sha256", digest.FromBytes(tarOf(file{name: "a", body: "a"})).Encoded()))
	if err != nil || len(layers) != 1 {
		t.Fatal(layers, err)
	}
	f.save("bad:1")
	for _, damage := range []func(string) error{func(name string) error { return os.Truncate(name, 100) }, os.Remove} {
		if err := damage(layers[0]); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err := f.Save(context.Background(), []string{"bad:1"}, nil, &out)
		if err == nil || errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "is damaged: blob sha256:"+filepath.Base(layers[0])) || !strings.Contains(err.Error(), "rmi") {
			t.Errorf("saved: %v", err)
		}
		if out.Len() > 0 {
			t.Errorf("%d bytes were written", out.Len())
		}
	}
}
