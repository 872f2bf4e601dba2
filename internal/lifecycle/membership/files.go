package membership

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	apinetwork "github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/network/resolv"
)

// nameServer is where user-defined networks answer for names, inside of every
// container that is on one.
var nameServer = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// joined brings /etc/hosts and /etc/resolv.conf of a running container up to
// date with a network that it was put on.
func joined(c *container.Container, r *container.Record, driverNetwork string, ep *apinetwork.EndpointSettings) error {
	var lines strings.Builder
	for _, a := range []netip.Addr{ep.IPAddress, ep.GlobalIPv6Address} {
		if a.IsValid() {
			name := r.Config.Hostname
			if r.Config.Domainname != "" {
				name = r.Config.Hostname + "." + r.Config.Domainname + " " + r.Config.Hostname
			}
			lines.WriteString(a.String() + "\t" + name + "\n")
		}
	}
	err := edit(filepath.Join(c.Dir(), "hosts"), func(text string) string { return text + lines.String() })
	if driverNetwork == apinetwork.NetworkBridge {
		return err
	}
	path := filepath.Join(c.Dir(), "resolv.conf")
	return errors.Join(err, edit(path, func(text string) string {
		conf := resolv.Parse(path, []byte(text))
		if len(conf.Servers) == 1 && conf.Servers[0] == nameServer {
			return text
		}
		served, _ := conf.Internal(nameServer, resolv.Overrides{})
		return string(served)
	}))
}

// left takes the addresses of a network that it was taken off out of /etc/hosts.
func left(c *container.Container, ep *apinetwork.EndpointSettings) error {
	if ep == nil {
		return nil
	}
	return edit(filepath.Join(c.Dir(), "hosts"), func(text string) string {
		var out strings.Builder
		for line := range strings.Lines(text) {
			a, err := netip.ParseAddr(strings.TrimSpace(strings.SplitN(line, "\t", 2)[0]))
			if err != nil || a != ep.IPAddress && a != ep.GlobalIPv6Address {
				out.WriteString(line)
			}
		}
		return out.String()
	})
}

// edit changes a file where it is: the container has it mounted, and would not
// see another one under its name.
func edit(path string, change func(string) string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	next := change(string(data))
	if next == string(data) {
		return nil
	}
	return os.WriteFile(path, []byte(next), 0o644)
}
