package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/test/promise"
)

// engine is a recording stand-in for the daemon on a unix socket.
type engine struct {
	Host string

	mu       sync.Mutex
	requests []request
	answers  map[string]string // "METHOD /path" without version -> JSON
	status   map[string]int
}

type request struct {
	Method, Path, Query string
	Body                []byte
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	dir, err := os.MkdirTemp("", "cli") //nolint:usetesting // t.TempDir is too long for a socket path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{Host: "unix://" + l.Addr().String(), answers: map[string]string{}, status: map[string]int{}}
	srv := &http.Server{Handler: e}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return e
}

// answer sets the body for "METHOD /path".
func (e *engine) answer(key, body string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answers[key] = body
}

// code sets the status for "METHOD /path".
func (e *engine) code(key string, status int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status[key] = status
}

func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	path := r.URL.Path
	if strings.HasPrefix(path, "/v1.") {
		path = "/" + strings.SplitN(path[1:], "/", 2)[1]
	}
	h := w.Header()
	h.Set("Api-Version", "1.56")
	h.Set("Ostype", "linux")
	h.Set("Content-Type", "application/json")
	e.mu.Lock()
	defer e.mu.Unlock()
	if path == "/_ping" {
		return
	}
	e.requests = append(e.requests, request{r.Method, path, r.URL.RawQuery, body})
	key := r.Method + " " + path
	if s := e.status[key]; s != 0 {
		w.WriteHeader(s)
	}
	if a, ok := e.answers[key]; ok {
		io.WriteString(w, a)
		return
	}
	w.WriteHeader(http.StatusNotFound)
	io.WriteString(w, `{"message":"No such thing: `+key+`"}`)
}

// take returns what was asked since the last take.
func (e *engine) take() []request {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.requests
	e.requests = nil
	return r
}

// result of one command line.
type result struct {
	Stdout, Stderr string
	Code           int
}

// wherry runs a command line in this process.
func wherry(t *testing.T, e *engine, stdin string, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	sh := &shell.Shell{
		Name: "docker", Build: shell.Build{Version: "1.2.3", Commit: "abcdef0"},
		In: shell.NewIn(strings.NewReader(stdin)), Out: shell.NewOut(&out), Err: shell.NewOut(&errOut),
	}
	err := Run(context.Background(), sh, append([]string{"--config", t.TempDir(), "-H", e.Host}, args...))
	shell.Print(sh.Err, err)
	return result{out.String(), errOut.String(), shell.ExitCode(err)}
}

// docker runs the same with docker's CLI of version 28.
func docker(t *testing.T, e *engine, stdin string, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := exec.Command("docker", append([]string{"--config", t.TempDir(), "-H", e.Host}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// needDocker skips unless a docker CLI of version 28 is installed; a machine
// that promises one (WHERRY_REQUIRE=docker) fails instead.
func needDocker(t *testing.T) {
	t.Helper()
	out, err := exec.Command("docker", "-v").Output()
	if err == nil && strings.Contains(string(out), "version 28.") {
		return
	}
	why := "needs a docker CLI of version 28, have " + strings.TrimSpace(string(out))
	promise.Lacks(t, "docker", why)
}

// TestCreateRequest compares the body of the create request with docker's,
// flag by flag.
func TestCreateRequest(t *testing.T) {
	needDocker(t)
	dir := t.TempDir()
	e := newEngine(t)
	e.answer("POST /containers/create", `{"Id":"0123456789abcdef","Warnings":["be careful"]}`)
	e.code("POST /containers/create", http.StatusCreated)

	for _, line := range createLines(t, dir) {
		t.Run(line, func(t *testing.T) {
			args := append([]string{"create"}, words(t, line)...)
			theirs := docker(t, e, "", args...)
			want := e.take()
			os.Remove(filepath.Join(dir, "CID"))
			ours := wherry(t, e, "", args...)
			got := e.take()
			if d := cmp.Diff(theirs, ours); d != "" {
				t.Errorf("output (-docker +wherry):\n%s", d)
			}
			if len(want) != 1 || len(got) != 1 {
				t.Fatalf("%d and %d requests; docker said %q, we %q", len(want), len(got), theirs.Stderr, ours.Stderr)
			}
			if want[0].Query != got[0].Query {
				t.Errorf("query %q, docker's %q", got[0].Query, want[0].Query)
			}
			if d := cmp.Diff(decode(t, want[0].Body), decode(t, got[0].Body)); d != "" {
				t.Errorf("body (-docker +wherry):\n%s", d)
			}
			os.Remove(filepath.Join(dir, "CID"))
		})
	}
}

// createLines is the table of command lines; files they name are in dir.
func createLines(t *testing.T, dir string) []string {
	t.Helper()
	t.Setenv("FROM_ENV", "yes")
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	env := write("env", "# comment\nA=1\nB\nPATH\n\nD=a=b\n")
	labels := write("labels", "a=1\n#no\nb\nc=x y\n")
	seccomp := write("seccomp.json", "{\n  \"defaultAction\": \"SCMP_ACT_ALLOW\"\n}\n")
	return []string{
		"img", "img cmd -x --y z", "--name n img", "-it img sh", "-i img", "-t img",
		"-a stdin -a stdout img", "-a STDERR img", "-e A=1 -e FROM_ENV -e NOT_SET_ANYWHERE -e X= img",
		"--env-file " + env + " -e A=2 img", "--dns 127.0.0.53 img", "-l a -l b=c -l a=d img", "--label-file " + labels + " -l b=2 img",
		"--entrypoint /bin/x img a b", "--entrypoint= img", "-h host --domainname dom img",
		"-u 1:2 -w /tmp img", "--group-add 3 --group-add wheel img", "--read-only img",
		"--restart always img", "--restart on-failure:3 img", "--restart unless-stopped img", "--restart no --rm img",
		"--stop-signal SIGUSR1 --stop-timeout 7 img", "--stop-timeout 0 img", "--init img", "--init=false img",
		"--annotation a=b --annotation c=d img", "--sysctl net.core.somaxconn=1 --sysctl kernel.msgmax=2 img",
		"--log-driver json-file --log-opt max-size=1m --log-opt max-file=3 img", "--log-driver none img", "--log-opt labels=a img",
		"--cap-add net_admin --cap-add CAP_SYS_TIME --cap-drop all img", "--privileged img",
		"--security-opt no-new-privileges img", "--security-opt no-new-privileges:true --security-opt label=disable img",
		"--security-opt seccomp=unconfined --security-opt apparmor=x img", "--security-opt label:user:x img",
		"--security-opt seccomp=" + seccomp + " img", "--security-opt systempaths=unconfined img",
		"--security-opt seccomp=builtin img",
		"--userns host img", "--cgroupns private img", "--ipc host img", "--ipc container:x img", "--pid host img",
		"--pid container:x img", "--uts host img", "--isolation default img", "--runtime runc img", "--cgroup-parent /x img",
		"-m 64m --memory-reservation 32m --memory-swap 128m img", "--memory-swap -1 img", "--memory-swappiness 10 img",
		"--memory-swappiness 0 img", "--oom-kill-disable --oom-score-adj 500 img", "--pids-limit 99 img", "--pids-limit -1 img",
		"--cpus 1.5 --cpu-shares 512 img", "--cpu-period 100000 --cpu-quota 50000 img", "--cpu-rt-period 10 --cpu-rt-runtime 5 img",
		"--cpuset-cpus 0-1 --cpuset-mems 0 img", "--shm-size 1g img", "--ulimit nofile=1:2 --ulimit core=0 --ulimit nproc=-1 img",
		"--device /dev/null img", "--device /dev/null:/dev/x:rw img", "--device /dev/null:r img", "--device /dev/a/:/dev/b/../c img",
		"--device vendor.com/class=name --device /dev/null img", "--device-cgroup-rule 'c 1:3 rwm' --device-cgroup-rule 'a *:* m' img",
		"--gpus all img", "--gpus 2 img", `--gpus '"device=0,1","capabilities=compute,utility",driver=nvidia' img`,
		"--blkio-weight 500 --blkio-weight-device /dev/sda:100 img",
		"--device-read-bps /dev/sda:1mb --device-write-bps /dev/sda:2mb --device-read-iops /dev/sda:10 --device-write-iops /dev/sda:20 img",
		"--network none img", "--network host img", "--network mynet img", "--network container:x img", "--net bridge img",
		"--network mynet --network-alias a --net-alias b --ip 172.20.0.5 --ip6 2001:db8::1 --link-local-ip 169.254.1.1 img",
		"--network name=mynet,alias=a,alias=b,ip=172.20.0.5,driver-opt=a=b,gw-priority=3 img",
		"--network a --network name=b,alias=x img", "--ip 172.17.0.9 img", "--network mynet --link c1:alias img", "--link c1 img",
		"--network name=mynet,mac-address=02:00:00:00:00:01 img",
		"--dns 1.1.1.1 --dns ::1 --dns-search example.com --dns-search . --dns-option ndots:2 --dns-opt timeout:1 img",
		"--add-host a:1.2.3.4 --add-host b:host-gateway --add-host c=::1 --add-host d:[::1] img",
		"-p 80 img", "-p 8080:80 -p 127.0.0.1:8443:443/tcp -p 53:53/udp img", "-p 8000-8002:80-82 img", "-p 9000-9010:80 img",
		"-p [::1]:81:80 img", "-p 80/sctp img", "-p published=8080,target=80,protocol=udp img", "-P --expose 90 --expose 100-102/udp img",
		"-v /a:/b img", "-v /a:/b:ro,z -v vol:/c -v /anon img", "-v ./rel:/b img", "-v ~/x:/y img", "-v vol:/x:nocopy --volume-driver local img",
		"-v a:/b img", "-v /d img", "--volumes-from x --volumes-from y:ro img", "--tmpfs /t --tmpfs /u:size=1m,mode=700 img",
		"--mount type=bind,src=/a,dst=/b,readonly img", "--mount type=volume,source=v,target=/t,volume-nocopy,volume-label=a=b,volume-driver=local,volume-opt=x=y img",
		"--mount type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700 img", "--mount type=bind,src=/a,dst=/b,bind-propagation=rshared,bind-recursive=disabled img",
		"--mount type=volume,dst=/anon img", "--mount type=bind,src=.,dst=/b img", "--storage-opt size=1G img",
		"--health-cmd 'curl x' --health-interval 5s --health-retries 3 --health-timeout 2s --health-start-period 1m --health-start-interval 3s img",
		"--no-healthcheck img", "--health-retries 2 img", "--platform linux/amd64 img", "--cidfile " + filepath.Join(dir, "CID") + " img",
	}
}

// TestCreateGolden keeps what docker's CLI was seen to send, for machines
// without one: of each body only what differs from that of a bare create.
func TestCreateGolden(t *testing.T) {
	dir := t.TempDir()
	e := newEngine(t)
	e.answer("POST /containers/create", `{"Id":"0123456789abcdef","Warnings":[]}`)
	e.code("POST /containers/create", http.StatusCreated)
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	var base any
	for _, line := range createLines(t, dir) {
		wherry(t, e, "", append([]string{"create"}, words(t, line)...)...)
		os.Remove(filepath.Join(dir, "CID"))
		r := e.take()
		if len(r) != 1 {
			t.Fatalf("%s: %d requests", line, len(r))
		}
		v := decode(t, r[0].Body)
		if base == nil {
			base = v
		}
		b, err := json.Marshal(differs(base, v))
		if err != nil {
			t.Fatal(err)
		}
		text := line + "\n\t" + r[0].Query + " " + string(b) + "\n"
		text = strings.ReplaceAll(text, "PATH="+os.Getenv("PATH"), "PATH=$PATH")
		out.WriteString(strings.ReplaceAll(strings.ReplaceAll(text, dir, "$DIR"), wd, "$PWD"))
	}
	golden(t, "create", out.String())
}

// differs returns the parts of v that are not the same in base.
func differs(base, v any) any {
	a, ok1 := base.(map[string]any)
	b, ok2 := v.(map[string]any)
	if !ok1 || !ok2 {
		return v
	}
	out := map[string]any{}
	for k, x := range b {
		if !cmp.Equal(a[k], x) {
			out[k] = differs(a[k], x)
		}
	}
	return out
}

// TestRefusals compares messages and exit codes of wrong command lines.
func TestRefusals(t *testing.T) {
	needDocker(t)
	e := newEngine(t)
	e.answer("POST /containers/create", `{"message":"Conflict. The container name \"/n\" is already in use"}`)
	e.code("POST /containers/create", http.StatusConflict)
	e.answer("GET /info", `{}`)
	t.Setenv("DOCKER_HOST", "")
	for _, line := range []string{
		"foo", "--foo", "ps --foo", "ps a b", "run", "run --foo x", "rm", "container foo", "container foo --bar",
		"run --memory xx x", "run -p a:b:c:d:e x", "run --rm --restart always x", "create --pull foo x", "create --rm --restart on-failure x",
		"exec", "exec a", "inspect", "rename a", "kill", "logs", "logs a b", "update x", "run -d -a stdout x",
		"help nosuch", "tag a", "tag a b c", "save", "wait", "run -it x", "create -v /a:/b:/c:/d x", "create -v /a::/b x",
		"run --network a --network a x", "run --network a --network host x", "run --gpus foo x", "events --since",
		"ps --filter foo", "ps -n x", "image nosuch", "system nosuch", "create --platform foo/bar/baz/x y",
		"create --mac-address zz x", "create --memory-swappiness 101 x", "create --restart foo x", "create --restart on-failure:x x",
		"create --pid foo:bar x", "create --uts x x", "create --userns x x", "create --cgroupns x x", "create --ipc= x",
		"create --log-driver none --log-opt a=b x", "create --security-opt foo x", "create --security-opt seccomp=/nope x",
		"create --security-opt seccomp=/etc/passwd x", "create --storage-opt x y", "create --no-healthcheck --health-cmd x y",
		"create --health-interval -1s x", "create --health-retries -1 x", "create --device :/x y", "create --device a:b:c:d y",
		"create --device a:b:zz y", "create --device nul y", "create --device-cgroup-rule x y", "create --ulimit x y", "create --ulimit foo=1 y",
		"create --ulimit nofile=2:1 y", "create --blkio-weight-device x y", "create --device-read-bps /dev/x y", "create --device-write-iops x:y z",
		"create -a foo x", "create -l =x y", "create -e =x y", "create --add-host x y", "create --add-host x:y z", "create --dns x y",
		"create --dns-search a_b. y", "create --link a:b:c y", "create --sysctl x y", "create --annotation x y", "create --tmpfs y",
		"create --expose x y", "create --expose 1-x y", "create -p 80-81:1 x", "create -p x:80 y", "create -p 80/foo y", "create -p published=1,x y", "create -p 99999 y",
		"create --mount type=foo,dst=/x y", "create --mount type=bind y", "create --mount dst=/x,foo=1 y", "create --mount type=bind,src=/a,dst=/b,volume-nocopy y",
		"create --mount type=tmpfs,src=/a,dst=/b y", "create --network name=a,foo=b y", "create --network name=,alias=b y",
		"create --network name=a,ip=1.2.3.4 --ip 1.2.3.5 y", "create --network name=a,alias=b --network-alias c y",
		"create --network host --network-alias c y", "create --memory -1 y", "create --cpus x y", "create --cpus 0.0000000001 y",
		"create --shm-size x y", "create --stop-timeout x y", "create --env-file /nope x", "create --env-file /etc/passwd x", "create --label-file /nope x",
		"create --io-maxbandwidth 1m --io-maxiops 5 --cpu-count 2 --cpu-percent 3 x", "create --cidfile /etc/passwd x", "create --cidfile /nope/x y",
		"create UPPER", "create --name n x", "run --name n x", "run --use-api", "create --detach-keys x y", "update --restart foo x", "update -m x y",
		"inspect --type foo x", "inspect --type= x", "inspect x", "inspect --type container x", "container inspect x y", "image inspect x",
		"inspect -f {{ x", "inspect -f {{.Foo}} x", "ps --format {{", "ps --format {{.Foo}}", "images --format {{", "events --format {{",
		"events --format {{.Foo}}", "version --format {{", "info --format {{",
		"start a", "start a b", "start -a a b", "start -a a", "stop a", "stop -t x a", "stop a b", "restart a", "kill a", "kill -s FOO a", "rm a b", "rm -f a", "rm /",
		"pause a", "unpause a b", "rename a b", "top a", "top", "port a", "port a 80", "port", "port a b c", "logs a", "wait a b", "attach a", "exec -e =x a b",
		"rmi a", "rmi -f a b", "rmi", "tag a b", "tag A b", "tag a B", "history a", "history", "import /nope", "import", "load -i /nope", "load x", "save -o /nope/x a",
		"ps --no-trunc=x", "-H a -H b ps", "-H foo://x ps", "-c x ps", "-l foo ps", "version x", "info x", "events x",
		"container prune x", "container ls x", "image ls a b --x", "pull", "pull A", "pull -a a:b",
	} {
		t.Run(line, func(t *testing.T) {
			args := words(t, line)
			theirs := docker(t, e, "", args...)
			want := e.take()
			ours := wherry(t, e, "", args...)
			got := e.take()
			if theirs.Code == 0 && !strings.Contains(line, "-f a") {
				t.Errorf("docker accepts it: %q", theirs.Stdout)
			}
			if d := cmp.Diff(theirs, ours); d != "" {
				t.Errorf("output (-docker +wherry):\n%s", d)
			}
			_, _ = want, got
		})
	}
}

// words splits like a shell, knowing single quotes.
func words(t *testing.T, line string) []string {
	t.Helper()
	var out []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}

// decode parses a create request and takes away what only differs because
// docker 28 speaks an older version of the API.
func decode(t *testing.T, b []byte) any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if v["OnBuild"] == nil {
		delete(v, "OnBuild") // not part of a create request any more
	}
	if l, ok := v["Env"].([]any); ok { // docker's order is that of a map
		sort.Slice(l, func(i, j int) bool { return l[i].(string) < l[j].(string) })
	}
	host := v["HostConfig"].(map[string]any)
	for _, k := range []string{"Binds", "CapAdd", "CapDrop"} { // order is not kept by docker
		if l, ok := host[k].([]any); ok {
			sort.Slice(l, func(i, j int) bool { return l[i].(string) < l[j].(string) })
		}
	}
	return v
}
