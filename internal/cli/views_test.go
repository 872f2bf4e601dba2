package cli

import (
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// populated is an engine with one of everything.
func populated(t *testing.T) *engine {
	t.Helper()
	e := newEngine(t)
	const id = "4f1d72053efc84c1bd40085a3f3c323b05b4d0e04d6924ed304a3b2dc811793c"
	const img = "sha256:2d3cb76d400812f0fafc73dc04537312104f67a98460cfb85c012f66a976abd6"
	e.answer("GET /containers/json", `[{"Id":"`+id+`","Names":["/web","/other/link"],"Image":"nginx:1.2","ImageID":"`+img+`","Command":"nginx -g 'daemon off;' and more words","Created":1700000000,
"Ports":[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},{"PrivatePort":443,"Type":"tcp"},{"PrivatePort":444,"Type":"tcp"},{"IP":"::","PrivatePort":53,"PublicPort":53,"Type":"udp"}],
"Labels":{"b":"2","a":"1"},"State":"running","Status":"Up 3 minutes (healthy)","HostConfig":{"NetworkMode":"bridge"},"NetworkSettings":{"Networks":{"bridge":{}}},
"Mounts":[{"Type":"volume","Name":"a-very-long-volume-name-indeed","Driver":"local","Destination":"/x"},{"Type":"bind","Source":"/srv","Destination":"/y"}],"SizeRw":1234,"SizeRootFs":98765432},
{"Id":"aaaaaaaaaaaa84c1bd40085a3f3c323b05b4d0e04d6924ed304a3b2dc811793c","Names":["/old"],"Image":"`+img+`","ImageID":"`+img+`","Command":"sh","Created":1600000000,"Ports":[],"Labels":{},"State":"exited","Status":"Exited (1) 2 days ago","HostConfig":{},"NetworkSettings":{"Networks":{}},"Mounts":[]}]`)
	e.answer("GET /images/json", `[{"Id":"`+img+`","RepoTags":["nginx:1.2","nginx:latest"],"RepoDigests":["nginx@sha256:1111111111111111111111111111111111111111111111111111111111111111"],"Created":1600000000,"Size":123456789,"SharedSize":-1,"Containers":-1,"Labels":null,"ParentId":""},
{"Id":"sha256:3333b76d400812f0fafc73dc04537312104f67a98460cfb85c012f66a976abd6","RepoTags":[],"RepoDigests":[],"Created":1500000000,"Size":12,"SharedSize":-1,"Containers":-1,"ParentId":""}]`)
	inspect := `{"Id":"` + id + `","Name":"/web","Created":"2024-01-01T00:00:00Z","Unknown":{"Field":[1,2.50]},"State":{"Status":"running","Running":true,"ExitCode":0},"Config":{"Image":"nginx","Tty":false,"Labels":{"a":"1"}},"HostConfig":{"AutoRemove":false},"NetworkSettings":{"Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"::","HostPort":"8080"}],"443/tcp":null,"53/udp":[{"HostIp":"127.0.0.1","HostPort":"5353"}]}}}`
	e.answer("GET /containers/web/json", inspect)
	e.answer("GET /images/nginx/json", `{"Id":"`+img+`","RepoTags":["nginx:1.2"],"Size":5,"Unknown":1,"Config":{"Cmd":["x"]}}`)
	e.answer("GET /images/nginx/history", `[{"Id":"`+img+`","Created":1600000000,"CreatedBy":"/bin/sh -c #(nop)  CMD [\"nginx\"]\tand a very long tail of words that goes on","Size":0,"Tags":["nginx:1.2"],"Comment":"c"},{"Id":"<missing>","Created":0,"CreatedBy":"x","Size":12345,"Comment":""}]`)
	e.answer("GET /networks", `[{"Name":"net10","Id":"aaaabbbbccccddddeeee","Driver":"bridge","Scope":"local","EnableIPv4":true,"Labels":{"a":"1"},"Created":"2024-01-02T03:04:05Z"},{"Name":"net9","Id":"11112222333344445555","Driver":"null","Scope":"local"},{"Name":"bridge","Id":"99992222333344445555","Driver":"bridge","Scope":"local"}]`)
	sample := `{"name":"/web","id":"` + id + `","read":"2024-01-01T00:00:01Z","preread":"2024-01-01T00:00:00Z","cpu_stats":{"cpu_usage":{"total_usage":300000000},"system_cpu_usage":2000000000,"online_cpus":2},"precpu_stats":{"cpu_usage":{"total_usage":100000000},"system_cpu_usage":1000000000},"memory_stats":{"usage":50000000,"limit":100000000,"stats":{"total_inactive_file":10000000}},"pids_stats":{"current":7},"networks":{"eth0":{"rx_bytes":1234567,"tx_bytes":89},"eth1":{"rx_bytes":1}},"blkio_stats":{"io_service_bytes_recursive":[{"op":"Read","value":4096},{"op":"write","value":1000000},{"op":"Total","value":5}]}}`
	e.answer("GET /containers/web/stats", sample)
	e.answer("GET /containers/"+id+"/stats", sample)
	e.answer("GET /networks/mynet", `{"Name":"mynet","Id":"n1"}`)
	e.answer("GET /containers/web/top", `{"Titles":["PID","CMD"],"Processes":[["1","nginx"],["22","nginx: worker process"]]}`)
	e.answer("GET /info", `{"ID":"abc","Containers":3,"ContainersRunning":1,"ContainersPaused":0,"ContainersStopped":2,"Images":4,"Driver":"overlay2","DriverStatus":[["Backing Filesystem","extfs"]],"Plugins":{"Volume":["local"],"Network":["bridge","host"],"Authorization":null,"Log":["json-file","local"]},"NCPU":2,"MemTotal":4123456789,"DockerRootDir":"/var/lib/x","Name":"host","Labels":["a=b"],"ServerVersion":"1.2.3","Runtimes":{"runc":{"path":"runc"}},"DefaultRuntime":"runc","Swarm":{"LocalNodeState":"inactive"},"LiveRestoreEnabled":true,"InitBinary":"docker-init","ContainerdCommit":{"ID":"c1"},"RuncCommit":{"ID":"r1"},"InitCommit":{"ID":"i1"},"SecurityOptions":["name=seccomp,profile=builtin","name=apparmor"],"CgroupDriver":"cgroupfs","CgroupVersion":"1","LoggingDriver":"json-file","KernelVersion":"6.1","OperatingSystem":"Debian","OSType":"linux","Architecture":"x86_64","Warnings":["WARNING: No swap limit support"],"RegistryConfig":{"InsecureRegistryCIDRs":["127.0.0.0/8"],"IndexConfigs":{"docker.io":{"Name":"docker.io","Secure":true},"h:5000":{"Name":"h:5000","Secure":false}},"Mirrors":["http://m/"]},"HttpProxy":"http://p","DefaultAddressPools":[{"Base":"10.0.0.0/8","Size":24}],"Debug":false}`)
	e.answer("GET /version", `{"Platform":{"Name":"Some Engine"},"Components":[{"Name":"Engine","Version":"1.2.3","Details":{"ApiVersion":"1.56","Arch":"amd64","BuildTime":"2024-01-02T03:04:05.000000000+00:00","Experimental":"false","GitCommit":"abc","GoVersion":"go1","KernelVersion":"6","MinAPIVersion":"1.24","Os":"linux"}},{"Name":"other","Version":"2","Details":{"GitCommit":"x"}}],"Version":"1.2.3","ApiVersion":"1.56","MinAPIVersion":"1.24","GitCommit":"abc","GoVersion":"go1","Os":"linux","Arch":"amd64","KernelVersion":"6","BuildTime":"2024-01-02T03:04:05.000000000+00:00"}`)
	e.answer("GET /events", `{"Type":"container","Action":"start","Actor":{"ID":"abc","Attributes":{"image":"x","name":"web"}},"scope":"local","time":1700000000,"timeNano":1700000000123456789}
{"Type":"image","Action":"tag","Actor":{"ID":"sha256:1","Attributes":{}},"scope":"local","time":1700000001,"timeNano":1700000001000000000}
`)
	for _, verb := range []string{"start", "stop", "restart", "kill", "pause", "unpause", "rename"} {
		e.answer("POST /containers/web/"+verb, "")
		e.code("POST /containers/web/"+verb, http.StatusNoContent)
	}
	e.answer("DELETE /containers/web", "")
	e.code("DELETE /containers/web", http.StatusNoContent)
	e.answer("POST /containers/web/wait", `{"StatusCode":7}`)
	e.answer("POST /containers/web/update", `{"Warnings":["careful"]}`)
	e.answer("POST /containers/prune", `{"ContainersDeleted":["a","b"],"SpaceReclaimed":123456}`)
	e.answer("POST /images/prune", `{"ImagesDeleted":[{"Untagged":"a"},{"Deleted":"b"}],"SpaceReclaimed":0}`)
	e.answer("DELETE /images/nginx", `[{"Untagged":"nginx:1.2"},{"Deleted":"`+img+`"}]`)
	e.answer("POST /images/nginx/tag", "")
	e.code("POST /images/nginx/tag", http.StatusCreated)
	e.answer("POST /images/load", `{"stream":"Loaded image: a:b\n"}`+"\n")
	e.answer("GET /images/get", "the tar")
	e.answer("POST /images/create", `{"status":"`+img+`"}`+"\n")
	e.answer("GET /containers/"+id+"/logs", "\x01\x00\x00\x00\x00\x00\x00\x03hi\n\x02\x00\x00\x00\x00\x00\x00\x04err\n")
	return e
}

// TestViews compares what successful command lines print and what they ask
// of the engine.
func TestViews(t *testing.T) {
	needDocker(t)
	e := populated(t)
	t.Setenv("DOCKER_HOST", "")
	fails := regexp.MustCompile(`nope|^port web (443|81|x|80/x)$|^inspect -s nginx|^rm -l`)
	for _, line := range []string{
		"ps", "ps -a", "ps -q", "ps -aq --no-trunc", "ps --no-trunc", "ps -s", "ps -l", "ps -n 3", "container ls", "container ps -a", "container list",
		"ps -f status=running -f name=x -f label=a=b", "ps --format json", "ps --format table", "ps --format raw",
		"ps --format 'table {{.ID}}\t{{.Names}}\t{{.Ports}}'", `ps --format 'table {{.Names}}\t{{.Size}}'`,
		"ps --format '{{.Names}} {{.Labels}} {{.Label \"a\"}} {{.Mounts}} {{.LocalVolumes}} {{.Networks}} {{.State}} {{.RunningFor}} {{.CreatedAt}}'",
		"ps --format '{{json .Names}} {{upper .ID}} {{truncate .Image 3}} {{join (split .Names \"e\") \"/\"}}'", "ps -q --format x",
		"images", "images -a", "images -q", "images --no-trunc", "images --digests", "images nginx", "images -f dangling=true", "image ls", "image list",
		"images --format json", "images --format '{{.Repository}}:{{.Tag}} {{.ID}} {{.CreatedAt}} {{.Size}} {{.Digest}}'", "images --format 'table {{.ID}}\t{{.Tag}}'",
		"history nginx", "history -q nginx", "history --no-trunc nginx", "history -H=false nginx", "history --format json nginx", "history --format '{{.ID}} {{.CreatedBy}}' nginx",
		"inspect web", "inspect nginx", "inspect mynet", "inspect web nginx", "inspect web nope", "inspect -f '{{.State.Status}} {{.Config.Image}}' web", "inspect -f '{{json .Config.Labels}}' web",
		"inspect -f '{{.Unknown.Field}}' web", "inspect -f json web nginx", "inspect -s web", "inspect --type image nginx", "container inspect web", "image inspect nginx", "inspect -s nginx",
		`inspect -f '{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}} {{.Id}}' web`, "inspect -f '{{index .Config.Labels \"a\"}}' web",
		"info", "info -f '{{.Driver}} {{.NCPU}}'", "info -f '{{json .Swarm}}'", "version -f '{{.Server.Version}} {{.Server.Os}}'", "version -f '{{json .Server}}'",
		"system info", "-D info",
		"events", "events --since 1 --until 2", "events --format json", "events --format '{{.Type}} {{.Actor.ID}}'", "events -f type=image -f event=tag", "system events",
		"top web", "top web -o pid", "port web", "port web 80", "port web 80/tcp", "port web 53/udp", "port web 443", "port web 81", "port web x", "port web 80/x",
		"start web", "start web web", "stop web", "stop -t 3 -s INT web", "stop --time 3 web", "restart web", "restart -t 0 web", "kill web", "kill -s HUP web", "pause web", "unpause web",
		"rename web new", "rm web", "rm -fv web", "rm -l web/a", "rm -f web nope", "container rm web", "container remove web", "wait web", "wait web web",
		"update -m 1g --memory-swap -1 --cpus 2 --restart always --pids-limit 5 web", "update --blkio-weight 10 -c 5 --cpuset-cpus 0 web",
		"container prune -f", "container prune", "container prune -f --filter until=1h", "image prune -f", "image prune -af", "image prune",
		"rmi nginx", "rmi -f --no-prune nginx", "rmi -f nope", "image rm nginx", "image remove nginx", "tag nginx a/b:c", "tag nginx x", "image tag nginx localhost:5000/x",
		"load", "load -q", "image load", "save nginx", "save nginx redis:1", "image save nginx",
		"import -", "import - a:b -m hello -c 'CMD x' -c 'ENV A=b'", "import http://x/y a", "import --platform linux/arm64 -",
		"logs web", "logs -f -t --details --tail 5 --since 2024-01-01T00:00:00Z --until 2024-01-02T00:00:00 web", "logs -n 3 web",
		"stats --no-stream web", "stats --no-stream --no-trunc web", "stats --no-stream --format json web", "stats --no-stream --format '{{.Name}} {{.CPUPerc}} {{.PIDs}}' web", "stats --no-stream nope",
		"network ls", "network list -q", "network ls --no-trunc", "network ls --format json", "network ls --format '{{.Name}} {{.Labels}} {{.Label \"a\"}} {{.IPv4}} {{.CreatedAt}}'", "network ls -f driver=bridge", "network inspect mynet", "network inspect -f '{{.Name}}' mynet nope",
		"-v", "--version", "pull nginx", "pull -q nginx:1", "pull -a nginx", "pull nginx@sha256:1111111111111111111111111111111111111111111111111111111111111111", "pull --platform linux/arm64 nginx",
	} {
		t.Run(line, func(t *testing.T) {
			args := words(t, line)
			theirs := docker(t, e, "stdin", args...)
			want := asked(e)
			ours := wherry(t, e, "stdin", args...)
			got := asked(e)
			if theirs.Code != 0 && !fails.MatchString(line) {
				t.Errorf("docker failed: %s", theirs.Stderr)
			}
			if d := cmp.Diff(scrub(theirs), scrub(ours)); d != "" {
				t.Errorf("output (-docker +wherry):\n%s", d)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("requests (-docker +wherry):\n%s", d)
			}
		})
	}
}

// The tree, which is ours, leaves out what has no name unless it is asked for.
func TestTree(t *testing.T) {
	e := populated(t)
	t.Setenv("DOCKER_HOST", "")
	const head, named, nameless = "IMAGE +ID +DISK USAGE +CONTENT SIZE +SHARED SIZE +EXTRA\\n", "nginx:latest *\\nnginx:1.2 +2d3cb76d4008 +123MB +0B +0B *\\n", "<untagged> +3333b76d4008 +12B +0B +0B *\\n"
	for line, want := range map[string]string{
		"images --tree": head + named, "images --tree -a": head + named + nameless, "images --tree -f dangling=true": head + named + nameless,
	} {
		if r := wherry(t, e, "", words(t, line)...); r.Code != 0 || !regexp.MustCompile("^"+want+"$").MatchString(r.Stdout) {
			t.Errorf("%s: %+v", line, r)
		}
	}
}

func asked(e *engine) []string {
	var out []string
	for _, r := range e.take() {
		s := r.Method + " " + r.Path
		if r.Query != "" {
			s += "?" + r.Query
		}
		s = strings.Replace(s, "&tail=all", "", 1) // the default
		s = strings.Replace(s, "?stream=0", "?stream=false", 1)
		out = append(out, s+" "+strings.TrimSpace(string(r.Body)))
	}
	sort.Strings(out) // several at a time have no order
	return out
}

// scrub takes away the client's own version.
func scrub(r result) result {
	for _, p := range [][2]string{
		{`(?m)^( Version: +)\S+$`, "${1}X"},
		// Placeholders that came and went with docker 29.
		{`"HealthStatus":"[^"]*",`, ""}, {`,"VirtualSize":"[^"]*"`, ""},
		{`version 28\S+, build \S+`, "version 1.2.3, build abcdef0"},
	} {
		r.Stdout = regexp.MustCompile(p[0]).ReplaceAllString(r.Stdout, p[1])
	}
	return r
}

// flagLine matches one flag of a help text: shorthand, name, type.
var flagLine = regexp.MustCompile(`(?m)^ {2,6}(?:(-\w), )?--([a-z0-9-]+)(?: (\w[\w-]*))?(?: {2,}|$)`)

// TestFlags compares names, shorthands and types of every verb's flags, and
// the usage line and aliases, with docker's help.
func TestFlags(t *testing.T) {
	needDocker(t)
	e := newEngine(t)
	var lines []string
	for _, set := range [][]verb{common, plain} {
		for _, v := range set {
			lines = append(lines, v.name)
		}
	}
	for _, g := range []string{"container", "context", "image", "network", "system"} {
		out := wherry(t, e, "", g, "--help").Stdout
		_, list, _ := strings.Cut(out, "Commands:\n")
		for _, l := range strings.Split(list, "\n") {
			if f := strings.Fields(l); strings.HasPrefix(l, "  ") {
				lines = append(lines, g+" "+f[0])
			}
		}
	}
	lines = slices.DeleteFunc(lines, func(l string) bool {
		return strings.HasSuffix(l, "why") || strings.HasSuffix(l, "bootstrap") || l == "system certs" || // docker has none of them
			strings.HasSuffix(l, "build") // buildx's, and of a program of its own
	})
	if len(lines) < 55 {
		t.Fatalf("only %d verbs found", len(lines))
	}
	lines = append(lines, "container", "image")
	for _, line := range lines {
		t.Run(line, func(t *testing.T) {
			args := append(strings.Fields(line), "--help")
			theirs, err := exec.Command("docker", args...).Output()
			if err != nil {
				t.Fatal(err)
			}
			ours := wherry(t, e, "", args...)
			if ours.Code != 0 {
				t.Fatal(ours)
			}
			want, got := flags(string(theirs)), flags(ours.Stdout)
			for _, ours := range []string{"health-on-failure", "secret", "publish-add", "publish-rm", "network-alias-add", "network-alias-rm", "kill-on-disconnect", "reach"} {
				delete(got, ours) // docker has none of them
			}
			if line == "run" || line == "create" || line == "container run" || line == "container create" || strings.HasSuffix(line, "update") {
				delete(want, "kernel-memory") // hidden: no kernel has it any more
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("flags (-docker +wherry):\n%s", d)
			}
			if a, b := heading(string(theirs)), heading(ours.Stdout); a != b {
				t.Errorf("usage and aliases:\n%s\ndocker's:\n%s", b, a)
			}
		})
	}
}

func flags(help string) map[string]string {
	out := map[string]string{}
	for _, m := range flagLine.FindAllStringSubmatch(help, -1) {
		out[m[2]] = m[1] + " " + m[3]
	}
	return out
}

func heading(help string) string {
	usage, _, _ := strings.Cut(help, "\n")
	_, rest, _ := strings.Cut(help, "\nAliases:\n")
	aliases, _, _ := strings.Cut(rest, "\n\n")
	return usage + "\n" + strings.TrimSpace(aliases)
}
