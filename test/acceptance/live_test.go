package acceptance

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestLivePorts: ports come and go on a running container while others are in
// use; none of their requests fails, and the changes outlive engine and container.
func TestLivePorts(t *testing.T) {
	harness.Require(t, "busybox")
	e := harness.Run(t, harness.Options{})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	cli := func(args ...string) string {
		t.Helper()
		out, errOut, code, err := e.CLI(args...)
		if err != nil || code != 0 {
			t.Fatalf("%q: %d %s %v", args, code, errOut, err)
		}
		return strings.TrimSpace(out)
	}
	cli("run", "-d", "--name", "web", "-p", "8001:80", "busybox", "sh", "-c",
		"mkdir /w; echo first >/w/i; mkdir /v; echo second >/v/i; httpd -p 80 -h /w; httpd -p 81 -h /v; exec sleep 1000")
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: e.Dial}}
	get := func(port string) (string, error) {
		resp, err := client.Get("http://127.0.0.1:" + port + "/i")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return strings.TrimSpace(string(b)), err
	}
	expect := func(port, want string) {
		t.Helper()
		deadline := time.Now().Add(5 * time.Second) // until httpd listens
		for {
			got, err := get(port)
			if err != nil {
				got = ""
			}
			if got == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("port %s: %q %v, want %q", port, got, err, want)
			}
		}
	}
	expect("8001", "first")

	var served, failed atomic.Int64
	ctx, stop := context.WithCancel(context.Background())
	var users sync.WaitGroup
	for range 2 {
		users.Go(func() {
			for ctx.Err() == nil {
				if got, err := get("8001"); err != nil || got != "first" {
					if failed.Add(1) == 1 {
						t.Errorf("a request failed: %q %v", got, err)
					}
				}
				served.Add(1)
			}
		})
	}
	for i := range 20 {
		port := fmt.Sprint(9000 + i)
		cli("update", "--publish-add", port+":81", "web")
		expect(port, "second")
		cli("update", "--publish-rm", port, "--publish-add", fmt.Sprint(9100+i)+":81", "web")
		expect(port, "")
		expect(fmt.Sprint(9100+i), "second")
		cli("update", "--publish-rm", fmt.Sprint(9100+i), "web")
	}
	stop()
	users.Wait()
	if served.Load() < 100 || failed.Load() > 0 {
		t.Errorf("%d of %d requests failed", failed.Load(), served.Load())
	}

	// To another port of the container, in one step; and all of it stays.
	cli("update", "--publish-add", "9200:80", "web")
	expect("9200", "first")
	cli("update", "--publish-rm", "9200", "--publish-add", "9200:81", "web")
	expect("9200", "second")
	e.Kill()
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	expect("9200", "second")
	expect("8001", "first")
	cli("restart", "-t", "0", "web")
	expect("9200", "second")
	if got := cli("port", "web", "81"); got != "0.0.0.0:9200\n[::]:9200" {
		t.Errorf("port: %q", got)
	}

	// What cannot be done changes nothing.
	for _, args := range [][]string{
		{"--publish-rm", "8001", "--publish-add", "9200:80"}, {"--publish-rm", "1"}, {"--publish-add", "nothing"},
		{"--publish-rm", "9200:82"}, {"--network-alias-add", "x"},
	} {
		if out, errOut, code, err := e.CLI(append(append([]string{"update"}, args...), "web")...); err != nil || code == 0 || errOut == "" {
			t.Errorf("update %q: %d %q %v", args, code, out, err)
		}
	}
	expect("9200", "second")
	expect("8001", "first")
}
