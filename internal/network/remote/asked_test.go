package remote_test

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/network/remote"
	"github.com/wherry-engine/wherry/internal/network/remote/remotetest"
	"github.com/wherry-engine/wherry/internal/plugin"
	"github.com/wherry-engine/wherry/test/promise"
)

// TestCutOff: an engine ends after a plugin has given an address, and before it
// has the answer. The next one gives the address back, or says that it cannot.
func TestCutOff(t *testing.T) {
	promise.Root(t)
	for name, c := range map[string]struct {
		mac   bool
		given netip.Addr
		lost  bool
	}{
		"given":  {given: netip.MustParseAddr("10.99.0.7")},
		"by MAC": {mac: true},
		"any":    {lost: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "plug") //nolint:usetesting // t.TempDir is too long for a socket
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			d, err := remotetest.New()
			if err != nil {
				t.Fatal(err)
			}
			d.RequiresMACAddress = c.mac
			s := d.Server()
			if err := s.Listen(filepath.Join(dir, "ours.sock")); err != nil {
				t.Fatal(err)
			}
			closed := false
			end := func() {
				if !closed {
					closed = true
					d.Close()
					s.Close()
				}
			}
			t.Cleanup(end)
			records := filepath.Join(dir, "records")
			engine := func() *remote.Drivers {
				return remote.New(plugin.New([]string{dir}, nil), records, 10*time.Second)
			}
			first := engine()
			pool, err := first.RequestPool(t.Context(), "ours", &network.IPAMConfig{}, nil, false, false)
			if err != nil {
				t.Fatal(err)
			}
			before := d.Held()
			d.Tell("late", "RequestAddress")
			e := &remote.Endpoint{ID: "e1", Network: "n1", IPAM: "ours", TellMAC: c.mac}
			if c.mac {
				e.MAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() {
				_, err := first.RequestFor(ctx, e, 0, pool, c.given)
				ended <- err
			}()
			for deadline := time.Now().Add(10 * time.Second); len(d.Held()) == len(before); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the plugin was not asked")
				}
			}
			d.Heal()

			// The engine is killed: another one reads what it left.
			second := engine()
			held, err := second.Held()
			if err != nil || held["e1"] == nil {
				t.Fatalf("%v, %v", held, err)
			}
			err = second.Leave(t.Context(), held["e1"])
			if lost := err != nil && strings.Contains(err.Error(), "plugin ours, pool "+pool.ID+": the engine ended while"); lost != c.lost || err != nil && !c.lost {
				t.Error(err)
			}
			if got := d.Held(); slices.Equal(got, before) == c.lost {
				t.Errorf("the plugin holds %q, before %q", got, before)
			}
			if left, err := second.Held(); err != nil || len(left) > 0 {
				t.Errorf("on record %v, %v", left, err)
			}
			cancel()
			if err := <-ended; err == nil {
				t.Error("an answer came")
			}
			end()
		})
	}
}

// TestPortsOf: with -P a driver is told of each exposed port as of one that is
// published at any port of the host.
func TestPortsOf(t *testing.T) {
	exposed := network.PortSet{network.MustParsePort("80/tcp"): {}, network.MustParsePort("53/udp"): {}}
	published := network.PortMap{network.MustParsePort("80/tcp"): {{HostPort: "8080"}}}
	for all, want := range map[bool]string{
		false: `[{"Proto":6,"IP":"","Port":80,"HostIP":"","HostPort":8080,"HostPortEnd":8080}]`,
		true: `[{"Proto":6,"IP":"","Port":80,"HostIP":"","HostPort":8080,"HostPortEnd":8080},` +
			`{"Proto":17,"IP":"","Port":53,"HostIP":"","HostPort":0,"HostPortEnd":0}]`,
	} {
		got, err := json.Marshal(remote.Options(nil, nil, remote.PortsOf(exposed, published, all))["com.docker.network.portmap"])
		if err != nil || string(got) != want {
			t.Errorf("%v: %s, %v", all, got, err)
		}
	}
	if len(published) != 1 {
		t.Error("the request was changed")
	}
}
