package builder

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// left lists what is mounted below the engine's data root.
func left(t *testing.T, e *harness.Engine) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, e.DataRoot()+"/build") {
			out = append(out, line)
		}
	}
	return out
}

// A kill of the engine in the middle of a build leaves no process at once, and
// no mount and file after the next start; what was finished is used then.
func TestKilled(t *testing.T) {
	e := engine(t, "")
	dir := files(t, map[string]string{"f": "x", "Dockerfile": `FROM busybox
RUN date +%N > /first
COPY f /f
RUN --mount=type=cache,target=/c --mount=type=secret,id=s sleep 1234
`})
	bx := buildx(t, e)
	for _, user := range []string{"", "USER 1234\n"} {
		text, err := os.ReadFile(dir + "/Dockerfile")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/Dockerfile", []byte(strings.Replace(string(text), "RUN --mount", user+"RUN --mount", 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := e.Command(t.Context(), bx[1], "build", "--secret", "id=s,src="+dir+"/f", dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the step runs", func() bool { return sleeps(e) == 1 })
		e.Kill()
		cmd.Wait()
		eventually(t, "the step dies with the engine", func() bool { return sleeps(e) == 0 })
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
		if code, body, err := e.API("GET", "/info", nil); err != nil || code != 200 { // it is ready when it answers this
			t.Fatal(code, string(body), err)
		}
		if m := left(t, e); len(m) > 0 {
			t.Errorf("mounts after the start: %v", m)
		}
		for _, d := range []string{e.DataRoot() + "/build/tmp", e.ExecRoot() + "/build"} {
			if entries, err := os.ReadDir(d); err != nil && !os.IsNotExist(err) || len(entries) > 0 {
				t.Errorf("%s after the start: %v %v", d, entries, err)
			}
		}
	}
	if err := os.WriteFile(dir+"/Dockerfile", []byte("FROM busybox\nRUN date +%N > /first\nCOPY f /f\nRUN cat /first\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, code := client(t, e, nil, nil, bx[1], "build", "--progress", "plain", dir)
	if code != 0 || strings.Count(out, "CACHED") < 2 {
		t.Errorf("the build after the kill: exit %d\n%s", code, out)
	}
}

// usage gives the size of the build cache.
func usage(t *testing.T, e *harness.Engine) (total int64, records int) {
	t.Helper()
	code, body, err := e.API("GET", "/v1.51/system/df?type=build-cache", nil)
	if err != nil || code != 200 {
		t.Fatal(code, string(body), err)
	}
	var df struct {
		BuildCache []struct {
			Size   int64
			Shared bool
		}
	}
	if err := json.Unmarshal(body, &df); err != nil {
		t.Fatal(err)
	}
	for _, c := range df.BuildCache {
		if !c.Shared {
			total += c.Size
		}
	}
	return total, len(df.BuildCache)
}

// The cap of the cache holds while builds run beside each other: what the
// running ones need comes on top of it, nothing else.
func TestCap(t *testing.T) {
	const cap, layer, waves, beside, steps = 40 << 20, 5 << 20, 5, 3, 2
	e := engine(t, fmt.Sprintf(`{"builder":{"gc":{"defaultMaxUsedSpace":"%d","defaultMinFreeSpace":"1"}}}`, cap))
	harness.Require(t, "docker28")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for wave := range waves {
			var wg sync.WaitGroup
			for b := range beside {
				text := "FROM busybox AS big\n"
				for s := range steps {
					text += fmt.Sprintf("RUN head -c %d /dev/urandom > /f%d-%d-%d\n", layer, wave, b, s)
				}
				dir := files(t, map[string]string{"Dockerfile": text + "FROM busybox\nCOPY --from=big /bin/true /t\n"}) // no image has the layers
				wg.Go(func() {
					cmd := e.Command(t.Context(), harness.DockerCLI(), "build", "-q", dir)
					cmd.Env = append(cmd.Env, classicEnv...)
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Errorf("%v\n%s", err, out)
					}
				})
			}
			wg.Wait()
		}
	}()
	most := int64(0)
	for building := true; building; {
		select {
		case <-done:
			building = false
		default:
		}
		n, _ := usage(t, e)
		most = max(most, n)
	}
	eventually(t, "the cache is below its cap", func() bool { n, _ := usage(t, e); return n <= cap })
	if most < cap/2 || most > cap+beside*(steps+1)*layer {
		t.Errorf("at most %d MB were used, with a cap of %d", most>>20, cap>>20)
	}
	if code, body, err := e.API("POST", "/images/prune?filters={%22dangling%22:[%22false%22]}", nil); err != nil || code != 200 {
		t.Fatal(code, string(body), err)
	}
	if code, body, err := e.API("POST", "/build/prune?all=1", nil); err != nil || code != 200 {
		t.Fatal(code, string(body), err)
	}
	if n, records := usage(t, e); n != 0 || records != 0 {
		t.Errorf("after prune -a: %d bytes in %d records", n, records)
	}
}

// Images and the cache are emptied apart: neither takes what the other needs.
func TestPruneApart(t *testing.T) {
	e := engine(t, "")
	dir := files(t, map[string]string{"Dockerfile": hello, "f": "content\n"})
	docker(t, e, classicEnv, "build", "-t", "t", dir)
	if code, body, err := e.API("POST", "/build/prune?all=1", nil); err != nil || code != 200 {
		t.Fatal(code, string(body), err)
	}
	if out, stderr, code, err := e.CLI("run", "--rm", "t"); err != nil || code != 0 || out != "content\n" {
		t.Fatalf("the image without the cache: %q %q %d %v", out, stderr, code, err)
	}
	docker(t, e, classicEnv, "build", "-t", "t", dir)
	for _, name := range []string{"t", "busybox"} {
		if code, body, err := e.API("DELETE", "/images/"+name+"?force=1", nil); err != nil || code != 200 {
			t.Fatal(code, string(body), err)
		}
	}
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	if out := docker(t, e, classicEnv, "build", "-t", "t", dir); strings.Count(out, "Using cache") != 4 {
		t.Errorf("the cache without its images:\n%s", out)
	}
	if out, stderr, code, err := e.CLI("run", "--rm", "t"); err != nil || code != 0 || out != "content\n" {
		t.Errorf("the image made again of the cache: %q %q %d %v", out, stderr, code, err)
	}
	docker(t, e, nil, "save", "-o", t.TempDir()+"/t.tar", "t")
}

// An engine that is stopped takes its builds along, with all that they mounted.
func TestStopped(t *testing.T) {
	e := engine(t, "")
	harness.Require(t, "docker28")
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN sleep 1234\n"})
	cmd := e.Command(t.Context(), harness.DockerCLI(), "build", dir)
	cmd.Env = append(cmd.Env, classicEnv...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the step runs", func() bool { return sleeps(e) == 1 })
	if err := e.Stop(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if n := sleeps(e); n != 0 {
		t.Errorf("%d steps are left", n)
	}
	if m := left(t, e); len(m) > 0 {
		t.Errorf("mounts are left: %v", m)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
}
