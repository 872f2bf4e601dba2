package cdi

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func directory(t *testing.T, files map[string]string) Directories {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Directories{filepath.Join(dir, "nothere"), dir}
}

// gpuSpec describes devices "0", "1" and "all" that are variables only.
func gpuSpec(kind string) string {
	text := `{"cdiVersion":"0.5.0","kind":"` + kind + `","devices":[`
	for i, name := range []string{"0", "1", "all"} {
		if i > 0 {
			text += ","
		}
		text += `{"name":"` + name + `","containerEdits":{"env":["GPU_` + strings.ToUpper(name) + `=` + kind + `"]}}`
	}
	return text + `]}`
}

func TestInject(t *testing.T) {
	one := directory(t, map[string]string{"amd.json": gpuSpec("amd.com/gpu")})
	two := directory(t, map[string]string{"amd.json": gpuSpec("amd.com/gpu"), "nvidia.json": gpuSpec("nvidia.com/gpu"), "x.json": gpuSpec("x.org/net")})
	other := directory(t, map[string]string{"x.json": gpuSpec("x.org/gpu")})
	gpu := [][]string{{"gpu"}}
	for _, c := range []struct {
		name string
		from Directories
		r    container.DeviceRequest
		want string // of the environment, or the end of the error
	}{
		{"by name", two, container.DeviceRequest{Driver: "cdi", DeviceIDs: []string{"x.org/net=1"}}, "GPU_1=x.org/net"},
		{"two names", two, container.DeviceRequest{Driver: "cdi", DeviceIDs: []string{"x.org/net=1", "amd.com/gpu=0"}}, "GPU_1=x.org/net GPU_0=amd.com/gpu"},
		{"all gpus", two, container.DeviceRequest{Count: -1, Capabilities: gpu}, "GPU_ALL=nvidia.com/gpu"},
		{"so many gpus", one, container.DeviceRequest{Count: 2, Capabilities: gpu}, "GPU_0=amd.com/gpu GPU_1=amd.com/gpu"},
		{"a gpu by number", one, container.DeviceRequest{DeviceIDs: []string{"1"}, Capabilities: gpu}, "GPU_1=amd.com/gpu"},
		{"a gpu by full name", two, container.DeviceRequest{DeviceIDs: []string{"amd.com/gpu=1"}, Capabilities: gpu}, "GPU_1=amd.com/gpu"},
		{"a vendor's", two, container.DeviceRequest{Driver: "amd", Count: 1, Capabilities: gpu}, "GPU_0=amd.com/gpu"},
		{"with words", two, container.DeviceRequest{Count: 1, Capabilities: [][]string{{"gpu", "nvidia", "compute"}}}, "GPU_0=nvidia.com/gpu"},
		{"another vendor", other, container.DeviceRequest{Count: 1, Capabilities: gpu}, "GPU_0=x.org/gpu"},
		{"none wanted", two, container.DeviceRequest{Capabilities: gpu}, ""},
		{"no gpu here", directory(t, nil), container.DeviceRequest{Count: -1, Capabilities: gpu}, `could not select device driver "" with capabilities: [[gpu]]`},
		{"no such vendor", one, container.DeviceRequest{Driver: "nvidia", Count: -1, Capabilities: gpu}, `could not select device driver "nvidia" with capabilities: [[gpu]]`},
		{"no such word", two, container.DeviceRequest{Count: -1, Capabilities: [][]string{{"tpu"}}}, `could not select device driver "" with capabilities: [[tpu]]`},
		{"unknown", two, container.DeviceRequest{Driver: "cdi", DeviceIDs: []string{"x.org/net=7"}}, "CDI device injection failed: unresolvable CDI devices x.org/net=7"},
		{"both", two, container.DeviceRequest{Count: 1, DeviceIDs: []string{"1"}, Capabilities: gpu}, "cannot set both Count and DeviceIDs on device request"},
		{"count", two, container.DeviceRequest{Driver: "cdi", Count: 1}, "unexpected count in CDI device request"},
		{"options", two, container.DeviceRequest{Driver: "cdi", DeviceIDs: []string{"x.org/net=1"}, Options: map[string]string{"a": "b"}}, "unexpected options in CDI device request"},
		{"off", nil, container.DeviceRequest{Driver: "cdi", DeviceIDs: []string{"x.org/net=1"}}, "CDI device injection failed: no CDI specification directories specified"},
	} {
		s := &specs.Spec{Process: &specs.Process{}}
		err := c.from.Inject(s, []container.DeviceRequest{c.r})
		if err != nil {
			if !strings.HasPrefix(err.Error(), c.want) || c.want == "" {
				t.Errorf("%s: %v, want %s", c.name, err, c.want)
			}
		} else if got := strings.Join(s.Process.Env, " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestBrokenSpecification(t *testing.T) {
	d := directory(t, map[string]string{"a.json": gpuSpec("x.org/net"), "broken.json": "{"})
	devices, warnings := d.List()
	var names []string
	for _, one := range devices {
		names = append(names, one.Source+" "+one.ID)
	}
	if want := []string{"cdi x.org/net=0", "cdi x.org/net=1", "cdi x.org/net=all"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "broken.json") {
		t.Errorf("warnings %q, want one about broken.json and none about a directory that is not there", warnings)
	}
	err := d.Inject(&specs.Spec{Process: &specs.Process{}}, []container.DeviceRequest{{Driver: "cdi", DeviceIDs: []string{"x.org/net=9"}}})
	if err == nil || !strings.Contains(err.Error(), "broken.json") {
		t.Errorf("%v does not name the file that may be the cause", err)
	}
}
