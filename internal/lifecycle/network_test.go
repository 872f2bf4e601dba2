package lifecycle

import (
	"path/filepath"
	"testing"

	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/lifecycle/donor"
	"github.com/wherry-engine/wherry/internal/lifecycle/netfiles"
	"github.com/wherry-engine/wherry/internal/undo"
)

// TestConnectToAnother: the name of the container whose network is joined is taken
// over into a configuration of the start's own; who looks at the one of before
// meanwhile goes on seeing that.
func TestConnectToAnother(t *testing.T) {
	store, err := container.Open(t.TempDir(), func(string) {}, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	p := &parts{store: store}
	p.files, p.donors = netfiles.New(netfiles.Config{}, nil, p.store), donor.New(p.store, nil)
	add := func(name string, mode apicontainer.NetworkMode, state container.State) *container.Container {
		c := &container.Container{Record: container.Record{
			ID: id.New(), Name: name, Config: &apicontainer.Config{Hostname: name, Domainname: name + ".example"},
			HostConfig: &apicontainer.HostConfig{NetworkMode: mode}, State: state,
		}}
		if err := p.store.Add(c, atomicfile.Cached); err != nil {
			t.Fatal(err)
		}
		return c
	}
	other := add("other", "bridge", container.State{Running: true, Pid: 42})
	c := add("one", apicontainer.NetworkMode("container:"+other.ID), container.State{})
	seen := c.Snapshot()
	var u undo.Stack
	n, err := (&launcher{p}).connect(t.Context(), c, &u)
	if err != nil {
		t.Fatal(err)
	}
	if seen.Config.Hostname != "one" || seen.Config.Domainname != "one.example" {
		t.Errorf("who looked before sees %q now", seen.Config.Hostname)
	}
	if now := c.Snapshot().Config; now.Hostname != "other" || now.Domainname != "other.example" {
		t.Errorf("the start has %q %q", now.Hostname, now.Domainname)
	}
	if n.path != "/proc/42/ns/net" || filepath.Base(n.filesOf) != other.ID {
		t.Errorf("%+v", n)
	}
}
