package lifecycle

import (
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/logs/driver"
)

func TestSecurityOptions(t *testing.T) {
	p := &parts{}
	for _, tt := range []struct {
		opts []string
		want security
		bad  bool
	}{
		{[]string{"no-new-privileges"}, security{noNewPrivileges: true}, false},
		{[]string{"no-new-privileges:false"}, security{}, false},
		{[]string{"seccomp=unconfined", "apparmor=x", "label=type:y"}, security{seccomp: "unconfined", apparmor: "x", labels: []string{"type:y"}}, false},
		{[]string{"seccomp:unconfined"}, security{seccomp: "unconfined"}, false},
		{[]string{"systempaths=unconfined"}, security{unconfinedPaths: true}, false},
		{[]string{"nonsense"}, security{}, true},
		{[]string{"what=ever"}, security{}, true},
		{[]string{"no-new-privileges=perhaps"}, security{}, true},
	} {
		got, err := p.parseSecurity(&container.Record{HostConfig: &apicontainer.HostConfig{SecurityOpt: tt.opts}})
		if (err != nil) != tt.bad || !tt.bad && !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: %+v, %v", tt.opts, got, err)
		}
	}
}

func TestLogOptions(t *testing.T) {
	r := &container.Record{ID: strings.Repeat("b", 64), Name: "n", Config: &apicontainer.Config{Labels: map[string]string{"tier": "front"}, Env: []string{"E=1"}, Image: "img"}}
	target := func(name string, o map[string]string) (any, error) {
		r.HostConfig = &apicontainer.HostConfig{LogConfig: apicontainer.LogConfig{Type: name, Config: o}}
		if err := driver.Validate(logConfig(r)); err != nil {
			return nil, err
		}
		return logTarget(r, "/d")
	}
	if _, err := target("json-file", map[string]string{"max-size": "10k", "max-file": "3", "labels": "tier,none", "env": "E", "tag": "{{.Name}}/{{.ID}}"}); err != nil {
		t.Error(err)
	}
	for _, o := range []map[string]string{{"max-size": "x"}, {"max-file": "0"}, {"max-file": "1", "compress": "true"}, {"nope": "1"}, {"tag": "{{.Nope}}"}} {
		if _, err := target("json-file", o); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", o, err)
		}
	}
	if _, err := target("nope", nil); err == nil || !strings.Contains(err.Error(), "no log driver named 'nope' is registered") {
		t.Error(err)
	}
}
