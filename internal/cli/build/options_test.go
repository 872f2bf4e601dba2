package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// request parses a command line as build does, up to the point where the
// engine would be asked.
func request(t *testing.T, stdin string, args ...string) (*client.SolveOpt, *outcome, error) {
	t.Helper()
	config := t.TempDir()
	sh := &shell.Shell{
		Name: "wherry", In: shell.NewIn(strings.NewReader(stdin)), Out: shell.NewOut(&strings.Builder{}), Err: shell.NewOut(&strings.Builder{}),
		Global: shell.Global{ConfigDir: config, Hosts: []string{"unix:///nowhere"}},
	}
	var o options
	cmd := &cobra.Command{}
	o.addTo(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		return nil, nil, err
	}
	o.context = cmd.Flags().Arg(0)
	if err := o.check(sh, cmd.Flags()); err != nil {
		return nil, nil, err
	}
	opt := &client.SolveOpt{Frontend: "dockerfile.v0", FrontendAttrs: map[string]string{}}
	in := inputs{opt: opt, stdin: sh.In}
	if err := in.load(&o); err != nil {
		return nil, nil, err
	}
	if err := o.attributes(sh, opt); err != nil {
		return nil, nil, err
	}
	out, err := o.exports(sh, opt)
	if err != nil {
		return nil, nil, err
	}
	if err := o.cache(sh, opt); err != nil {
		return nil, nil, err
	}
	return opt, out, o.attach(sh, opt)
}

// TestAttributes shows what the frontend is told, beyond what it is always told.
func TestAttributes(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("FROM_ENV", "yes")
	t.Setenv("SOURCE_DATE_EPOCH", "1")
	base := filepath.Base(dir)
	always := map[string]string{"filename": "Dockerfile", "image-resolve-mode": "local", "vcs:localdir:context": base, "build-arg:SOURCE_DATE_EPOCH": "1"}
	for line, want := range map[string]map[string]string{
		"":                                {},
		"--target x --no-cache":           {"target": "x", "no-cache": ""},
		"--no-cache-filter a,b":           {"no-cache": "a,b"},
		"--pull":                          {"image-resolve-mode": "pull"},
		"--build-arg A=1=2":               {"build-arg:A": "1=2"},
		"--build-arg SOURCE_DATE_EPOCH=2": {"build-arg:SOURCE_DATE_EPOCH": "2"},
		"--platform local,linux/x -o out": {"platform": platforms.DefaultString() + ",linux/x"},
		"--build-arg FROM_ENV":            {"build-arg:FROM_ENV": "yes"},
		"--build-arg NOT_SET_ANYWHERE":    {},
		"--label a=b --label c":           {"label:a": "b", "label:c": ""},
		"--network none":                  {"force-network-mode": "none"},
		"--network host":                  {"force-network-mode": "host"},
		"--network mine":                  {"force-network-mode": "mine"},
		"--add-host a:1.2.3.4 --add-host b=::1 --add-host c:[::2]":  {"add-hosts": "a=1.2.3.4,b=::1,c=::2"},
		"-m 64m --memory-swap -1":                                   {"memory": "67108864", "memswap": "-1"},
		"--cpus 1.5":                                                {"cpuperiod": "100000", "cpuquota": "150000"},
		"-c 512 --cpuset-cpus 0-1 --cpuset-mems 0":                  {"cpushares": "512", "cpusetcpus": "0-1", "cpusetmems": "0"},
		"--resource memory=1g,cpu-quota=5 --resource cpuset-cpus=0": {"memory": "1073741824", "cpuquota": "5", "cpusetcpus": "0"},
		"--shm-size 1m --ulimit nofile=1:2 --ulimit core=0":         {"shm-size": "1048576", "ulimit": "core=0:0,nofile=1:2"},
		"--cgroup-parent /x":                                        {"cgroup-parent": "/x"},
		"--platform linux/amd64,linux/arm64 -o out":                 {"platform": "linux/amd64,linux/arm64"},
		"--platform linux/amd64 --platform linux/386 -o out":        {"platform": "linux/amd64,linux/386"},
		"--sbom=true --provenance=mode=max -o out":                  {"attest:sbom": "", "attest:provenance": "mode=max"},
		"--attest type=sbom,generator=x --sbom=false -o out":        {},
		"--build-context x=docker-image://busybox":                  {"context:x": "docker-image://busybox"},
		"--build-context x=https://example.com/r.git#v1":            {"context:x": "https://example.com/r.git#v1"},
	} {
		t.Run(line, func(t *testing.T) {
			opt, _, err := request(t, "", append(strings.Fields(line), dir)...)
			if err != nil {
				t.Fatal(err)
			}
			for k, v := range always {
				if _, ok := want[k]; !ok {
					want[k] = v
				}
			}
			if d := cmp.Diff(want, opt.FrontendAttrs); d != "" {
				t.Errorf("attributes (-want +got):\n%s", d)
			}
		})
	}
}

// TestInputs shows where context and Dockerfile come from.
func TestInputs(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		stdin, args string
		mounts      []string
		attrs       map[string]string
	}{
		{"", dir, []string{"context", "dockerfile"}, map[string]string{"filename": "Dockerfile"}},
		{"", "-f " + dir + "/sub/D.x " + dir, []string{"context", "dockerfile"}, map[string]string{"filename": "D.x", "dockerfilekey": "dockerfile"}},
		{"FROM scratch", "-f - " + dir, []string{"context", "dockerfile"}, map[string]string{"filename": "Dockerfile"}},
		{"FROM scratch", "-", []string{"context", "dockerfile"}, map[string]string{"filename": "Dockerfile"}},
		{"\x1f\x8b\x08rest", "-f in/D -", nil, map[string]string{"filename": "in/D"}},
		{"", "https://example.com/r.git#main:sub", nil, map[string]string{"context": "https://example.com/r.git#main:sub"}},
		{"", "-f D git@example.com:r.git", nil, map[string]string{"context": "git@example.com:r.git", "filename": "D"}},
		{"", "http://example.com/x.tar.gz", nil, map[string]string{"context": "http://example.com/x.tar.gz"}},
		{"", "--build-context dockerfile=" + dir + " " + dir, []string{"_dockerfile", "context", "dockerfile"}, map[string]string{"context:dockerfile": "local:_dockerfile"}},
	} {
		t.Run(c.args, func(t *testing.T) {
			opt, _, err := request(t, c.stdin, strings.Fields(c.args)...)
			if err != nil && !strings.Contains(err.Error(), "ssh agent") { // a git address asks for one
				t.Fatal(err)
			}
			if opt == nil {
				return
			}
			var mounts []string
			for name := range opt.LocalMounts {
				mounts = append(mounts, name)
			}
			if d := cmp.Diff(c.mounts, mounts, cmp.Transformer("set", func(l []string) map[string]bool {
				m := map[string]bool{}
				for _, s := range l {
					m[s] = true
				}
				return m
			})); d != "" {
				t.Errorf("directories (-want +got):\n%s", d)
			}
			for k, v := range c.attrs {
				if opt.FrontendAttrs[k] != v {
					t.Errorf("%s is %q, want %q", k, opt.FrontendAttrs[k], v)
				}
			}
		})
	}
}

// TestOutputs shows what an output becomes.
func TestOutputs(t *testing.T) {
	dir := t.TempDir()
	for line, want := range map[string]struct {
		kind  string
		attrs map[string]string
		push  []string
	}{
		"-t a":                        {engineImage, map[string]string{"name": "docker.io/library/a:latest"}, nil},
		"-t a -t b:1":                 {engineImage, map[string]string{"name": "docker.io/library/a:latest,docker.io/library/b:1"}, nil},
		"--load -t a":                 {engineImage, map[string]string{"name": "docker.io/library/a:latest"}, nil},
		"--push -t r:5/a":             {engineImage, map[string]string{"name": "r:5/a:latest"}, []string{"r:5/a:latest"}},
		"-o type=registry -t r:5/a":   {engineImage, map[string]string{"name": "r:5/a:latest"}, []string{"r:5/a:latest"}},
		"-o type=image,name=x":        {engineImage, map[string]string{"name": "x"}, nil},
		"--push --sbom=true -t r:5/a": {"image", map[string]string{"name": "r:5/a:latest", "push": "true"}, nil},
		"-o type=registry,name=x,compression=zstd":    {"image", map[string]string{"name": "x", "push": "true", "compression": "zstd"}, nil},
		"--push --platform linux/a,linux/b -t r":      {"image", map[string]string{"name": "docker.io/library/r:latest", "push": "true"}, nil},
		"--platform linux/a,linux/b --annotation a=b": {engineImage, map[string]string{"annotation-manifest.a": "b"}, nil},
		"-o " + dir:                           {"local", map[string]string{}, nil},
		"-o -":                                {"tar", map[string]string{}, nil},
		"-o type=oci,dest=" + dir + "/x -t a": {"oci", map[string]string{"name": "docker.io/library/a:latest"}, nil},
		"-o type=docker,dest=" + dir + "/x":   {"docker", map[string]string{}, nil},
		"--squash -t a":                       {engineImage, map[string]string{"name": "docker.io/library/a:latest", "squash": "true"}, nil},
		"-o type=oci,dest=-,compression=zstd --annotation index,manifest[linux/amd64]:k=v": {"oci", map[string]string{
			"compression": "zstd", "annotation-index.k": "v", "annotation-manifest[linux/amd64].k": "v"}, nil},
	} {
		t.Run(line, func(t *testing.T) {
			opt, out, err := request(t, "", append(strings.Fields(line), dir)...)
			if err != nil {
				t.Fatal(err)
			}
			if len(opt.Exports) != 1 {
				t.Fatalf("%d outputs", len(opt.Exports))
			}
			e := opt.Exports[0]
			if e.Type != want.kind {
				t.Errorf("type %s, want %s", e.Type, want.kind)
			}
			if d := cmp.Diff(want.attrs, e.Attrs); d != "" {
				t.Errorf("attributes (-want +got):\n%s", d)
			}
			if d := cmp.Diff(want.push, out.push); d != "" {
				t.Errorf("pushed (-want +got):\n%s", d)
			}
		})
	}
}

// TestRefused shows that each mistake on a command line has its own words.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"/nope":                                     `unable to prepare context: path "/nope" not found`,
		file:                                        `unable to prepare context: path "` + file + `" is not a directory`,
		"-":                                         "stdin is empty",
		"-f - -":                                    "can't use stdin for both build context and dockerfile",
		"-t UPPER .":                                `invalid tag "UPPER": invalid reference format: repository name (library/UPPER) must be lowercase`,
		"--push .":                                  "tag is needed when pushing to registry",
		"--push --load .":                           "push and load may not be set together",
		"--platform x/y/z/w .":                      `invalid platform "x/y/z/w"`,
		"--add-host x .":                            "invalid host x",
		"--secret src=x .":                          "secret missing ID",
		"--secret id=x,src=/nope .":                 "failed to stat /nope",
		"--secret id=x,foo=1 .":                     "unexpected key 'foo' in 'foo=1'",
		"--secret id=x,type=foo .":                  `unsupported secret type "foo"`,
		"--ssh a=/nope .":                           "/nope",
		"-o type=foo .":                             `output type "foo" is not known`,
		"-o dest=x .":                               "type is required for output",
		"-o type=local .":                           "dest is required for local output",
		"-o type=tar,dest=/nope/x .":                "destination file: stat /nope",
		"-o type=tar,dest=" + dir + " .":            "is a directory",
		"-o type=local,dest=" + file + " .":         "is a file",
		"--cache-to foo=bar .":                      `type required for "foo=bar"`,
		"--build-context x .":                       "invalid context value: x, expected key=value",
		"--build-context x=foo://y .":               "foo:// is not known",
		"--build-context x=/nope .":                 `build context x: path "/nope" not found`,
		"--call foo .":                              `invalid call "foo"`,
		"--call outline --check .":                  "--check and --call=outline cannot be used together",
		"--no-cache --no-cache-filter x .":          "cannot currently be used together",
		"--security-opt x .":                        "--security-opt is not served",
		"--isolation hyperv .":                      "is for Windows",
		"--builder x .":                             `no builder "x" found`,
		"--rm=false .":                              "no intermediate containers exist",
		"--cpus 1 --cpu-quota 5 .":                  "conflicting options",
		"--resource foo=1 .":                        `invalid resource "foo=1"`,
		"--resource memory=x .":                     `invalid resource "memory=x"`,
		"--squash -o out .":                         "--squash is for an image in the engine",
		"--annotation foo:a=b -o type=oci,dest=- .": `unknown annotation type "foo"`,
		"--attest generator=x -o out .":             "attestation type not specified",
		"-q --progress plain .":                     "cannot be used together",
		"--label =x .":                              "it has no name",
		"--build-arg =x .":                          "it has no name",
	} {
		_, _, err := request(t, "", strings.Fields(strings.ReplaceAll(line+" ", " . ", " "+dir+" "))...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
	if _, _, err := request(t, "FROM scratch", "-f", "x", "-"); err == nil || !strings.Contains(err.Error(), "ambiguous Dockerfile source") {
		t.Errorf("-f x - with a Dockerfile: %v", err)
	}
}
