package program

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/exec"
	"github.com/testcontainers/testcontainers-go/network"
	"github.com/testcontainers/testcontainers-go/wait"
)

const serve = `mkdir /www; echo "hello $WHO" >/www/index.html; echo ready to serve; exec httpd -f -h /www -p 80`

// TestWeb: what most users do: a container, a port of it, and waiting for both.
func TestWeb(t *testing.T) {
	ctx := context.Background()
	net, err := network.New(ctx)
	testcontainers.CleanupNetwork(t, net)
	if err != nil {
		t.Fatal(err)
	}
	web, err := testcontainers.Run(ctx, "busybox",
		testcontainers.WithCmd("sh", "-c", serve),
		testcontainers.WithEnv(map[string]string{"WHO": "tester"}),
		testcontainers.WithExposedPorts("80/tcp"),
		network.WithNetwork([]string{"web"}, net),
		testcontainers.WithWaitStrategyAndDeadline(time.Minute, wait.ForAll(
			wait.ForLog("ready to serve"), wait.ForListeningPort("80/tcp"), wait.ForHTTP("/").WithPort("80/tcp"))),
	)
	testcontainers.CleanupContainer(t, web, testcontainers.StopTimeout(0))
	if err != nil {
		t.Fatal(err)
	}
	address, err := web.PortEndpoint(ctx, "80/tcp", "http")
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, err := io.ReadAll(answer.Body); err != nil || string(text) != "hello tester\n" {
		t.Errorf("%v %q", err, text)
	}

	// Files, both ways; a command; another container beside it by its name.
	if err := web.CopyToContainer(ctx, []byte("copied"), "/tmp/in", 0o644); err != nil {
		t.Error(err)
	}
	if back, err := web.CopyFileFromContainer(ctx, "/tmp/in"); err != nil {
		t.Error(err)
	} else if text, err := io.ReadAll(back); err != nil || string(text) != "copied" {
		t.Errorf("%v %q", err, text)
	}
	code, out, err := web.Exec(ctx, []string{"sh", "-c", "cat /tmp/in; exit 7"}, exec.Multiplexed())
	if err != nil || code != 7 {
		t.Errorf("%d %v", code, err)
	} else if text, err := io.ReadAll(out); err != nil || string(text) != "copied" {
		t.Errorf("%v %q", err, text)
	}
	asker, err := testcontainers.Run(ctx, "busybox",
		testcontainers.WithCmd("wget", "-q", "-O", "-", "http://web/"),
		network.WithNetwork(nil, net),
		testcontainers.WithWaitStrategy(wait.ForExit()),
	)
	testcontainers.CleanupContainer(t, asker)
	if err != nil {
		t.Fatal(err)
	}
	logs, err := asker.Logs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	if text, err := io.ReadAll(logs); err != nil || !strings.Contains(string(text), "hello tester") {
		t.Errorf("%v %q", err, text)
	}

	// Stopped and started again; the port may be another one then.
	limit := 100 * time.Millisecond
	if err := web.Stop(ctx, &limit); err != nil {
		t.Fatal(err)
	}
	if state, err := web.State(ctx); err != nil || state.Running {
		t.Errorf("%v %v", state, err)
	}
	if err := web.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if state, err := web.State(ctx); err != nil || !state.Running {
		t.Errorf("%v %v", state, err)
	}
}

// TestImage: an image that is built for the test, and goes with its container.
func TestImage(t *testing.T) {
	ctx := context.Background()
	c, err := testcontainers.Run(ctx, "",
		testcontainers.WithDockerfile(testcontainers.FromDockerfile{Context: "context", BuildArgs: map[string]*string{"WHAT": new(string)}}),
		testcontainers.WithWaitStrategy(wait.ForExit()),
	)
	testcontainers.CleanupContainer(t, c)
	if err != nil {
		t.Fatal(err)
	}
	logs, err := c.Logs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	if text, err := io.ReadAll(logs); err != nil || !strings.Contains(string(text), "built for a test") {
		t.Errorf("%v %q", err, text)
	}
}

// TestFailure: a container that does not come up is an error with its logs.
func TestFailure(t *testing.T) {
	c, err := testcontainers.Run(context.Background(), "busybox",
		testcontainers.WithCmd("sh", "-c", "echo cannot start; exit 3"),
		testcontainers.WithWaitStrategyAndDeadline(20*time.Second, wait.ForLog("never said")),
	)
	testcontainers.CleanupContainer(t, c)
	if err == nil || !strings.Contains(err.Error(), "container exited with code 3") {
		t.Errorf("%v", err)
	}
}
