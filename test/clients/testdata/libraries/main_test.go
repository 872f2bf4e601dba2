// Package program has what programs do with two client libraries that have the
// API's types and paths of their own: go-dockerclient, and dockertest.
package program

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	docker "github.com/fsouza/go-dockerclient"
	"github.com/ory/dockertest/v3"
)

func dockerfile(t *testing.T) string {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM busybox\nRUN echo made >/made\nCMD [\"sleep\", \"1000\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestDockerclient(t *testing.T) {
	c, err := docker.NewClientFromEnv()
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	heard := make(chan *docker.APIEvents, 1000)
	must(c.AddEventListener(heard))

	// A client that is there before the start: input, output, exit code, log.
	box, err := c.CreateContainer(docker.CreateContainerOptions{
		Name:       "cat",
		Config:     &docker.Config{Image: "busybox", Cmd: []string{"sh", "-c", "cat; exit 3"}, OpenStdin: true, StdinOnce: true, AttachStdin: true, AttachStdout: true},
		HostConfig: &docker.HostConfig{Memory: 64 << 20},
	})
	must(err)
	var out bytes.Buffer
	ready := make(chan struct{})
	w, err := c.AttachToContainerNonBlocking(docker.AttachToContainerOptions{
		Container: box.ID, InputStream: bytes.NewBufferString("hello\n"), OutputStream: &out, Stdin: true, Stdout: true, Stream: true, Success: ready,
	})
	must(err)
	<-ready
	ready <- struct{}{}
	must(c.StartContainer(box.ID, nil))
	must(w.Wait())
	code, err := c.WaitContainer(box.ID)
	if out.String() != "hello\n" || code != 3 || err != nil {
		t.Errorf("%q %d %v", out.String(), code, err)
	}
	out.Reset()
	must(c.Logs(docker.LogsOptions{Container: box.ID, OutputStream: &out, Stdout: true}))
	if out.String() != "hello\n" {
		t.Errorf("log: %q", out.String())
	}
	must(c.RemoveContainer(docker.RemoveContainerOptions{ID: box.ID}))

	// One that runs: figures, an exec, files both ways, a commit.
	box, err = c.CreateContainer(docker.CreateContainerOptions{Name: "box", Config: &docker.Config{Image: "busybox", Cmd: []string{"sleep", "1000"}}})
	must(err)
	must(c.StartContainer(box.ID, nil))
	figures := make(chan *docker.Stats, 10)
	must(c.Stats(docker.StatsOptions{ID: box.ID, Stats: figures, Timeout: 30 * time.Second}))
	if s := <-figures; s == nil || s.MemoryStats.Limit == 0 || s.CPUStats.SystemCPUUsage == 0 {
		t.Errorf("%+v", s)
	}
	x, err := c.CreateExec(docker.CreateExecOptions{Container: box.ID, Cmd: []string{"sh", "-c", "echo seen; exit 5"}, AttachStdout: true})
	must(err)
	out.Reset()
	must(c.StartExec(x.ID, docker.StartExecOptions{OutputStream: &out}))
	in, err := c.InspectExec(x.ID)
	must(err)
	if out.String() != "seen\n" || in.ExitCode != 5 {
		t.Errorf("%q %+v", out.String(), in)
	}
	var archive bytes.Buffer
	must(c.DownloadFromContainer(box.ID, docker.DownloadFromContainerOptions{Path: "/etc/hostname", OutputStream: &archive}))
	must(c.UploadToContainer(box.ID, docker.UploadToContainerOptions{Path: "/tmp", InputStream: &archive}))
	changes, err := c.ContainerChanges(box.ID)
	must(err)
	if got := fmt.Sprint(changes); got != "[{/tmp 0} {/tmp/hostname 1}]" {
		t.Errorf("%s", got)
	}
	image, err := c.CommitContainer(docker.CommitContainerOptions{Container: box.ID, Repository: "kept", Tag: "1"})
	must(err)
	if same, err := c.InspectImage("kept:1"); err != nil || same.ID != image.ID {
		t.Errorf("%v %v", same, err)
	}
	must(c.RemoveContainer(docker.RemoveContainerOptions{ID: box.ID, Force: true}))
	must(c.RemoveImage("kept:1"))

	out.Reset()
	must(c.BuildImage(docker.BuildImageOptions{Name: "made:1", ContextDir: dockerfile(t), OutputStream: &out}))
	if !bytes.Contains(out.Bytes(), []byte("Successfully tagged made:1")) {
		t.Errorf("%s", out.String())
	}
	must(c.RemoveImage("made:1"))
	n, err := c.CreateNetwork(docker.CreateNetworkOptions{Name: "net", IPAM: &docker.IPAMOptions{Config: []docker.IPAMConfig{{Subnet: "10.77.0.0/24"}}}})
	must(err)
	must(c.RemoveNetwork(n.ID))
	v, err := c.CreateVolume(docker.CreateVolumeOptions{Name: "vol", Labels: map[string]string{"a": "b"}})
	must(err)
	must(c.RemoveVolume(v.Name))

	// What the library makes of refusals.
	var gone *docker.NoSuchContainer
	if _, err := c.InspectContainerWithOptions(docker.InspectContainerOptions{ID: "nothere"}); !asNoSuch(err, &gone) {
		t.Errorf("%v", err)
	}
	if _, err := c.InspectImage("nothere"); err != docker.ErrNoSuchImage {
		t.Errorf("%v", err)
	}
	for e := range heard { // the last of them is on its way, at most
		if e.Type == "volume" && e.Action == "destroy" {
			break
		}
	}
}

func asNoSuch(err error, to **docker.NoSuchContainer) bool {
	e, ok := err.(*docker.NoSuchContainer)
	*to = e
	return ok
}

func TestDockertest(t *testing.T) {
	p, err := dockertest.NewPool("")
	if err != nil {
		t.Fatal(err)
	}
	p.MaxWait = 2 * time.Minute
	n, err := p.CreateNetwork("between")
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.RunWithOptions(&dockertest.RunOptions{
		Repository: "busybox", Tag: "latest", Networks: []*dockertest.Network{n}, ExposedPorts: []string{"80/tcp"}, Env: []string{"GREETING=hello"},
		Cmd: []string{"sh", "-c", "mkdir /www; echo $GREETING >/www/index.html; exec httpd -f -h /www -p 80"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var page string
	err = p.Retry(func() error {
		resp, err := http.Get("http://" + r.GetHostPort("80/tcp") + "/index.html")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		page = string(b)
		return err
	})
	if page != "hello\n" || err != nil {
		t.Errorf("%q %v", page, err)
	}
	var out bytes.Buffer
	if code, err := r.Exec([]string{"sh", "-c", "echo $GREETING; exit 4"}, dockertest.ExecOptions{StdOut: &out}); code != 4 || out.String() != "hello\n" || err != nil {
		t.Errorf("%d %q %v", code, out.String(), err)
	}
	if r.GetIPInNetwork(n) == "" {
		t.Error("no address in the network")
	}
	built, err := p.BuildAndRun("built", filepath.Join(dockerfile(t), "Dockerfile"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*dockertest.Resource{built, r} {
		if err := p.Purge(r); err != nil {
			t.Error(err)
		}
	}
	if err := p.RemoveNetwork(n); err != nil {
		t.Error(err)
	}
	if err := p.Client.RemoveImage("built"); err != nil {
		t.Error(err)
	}
}
