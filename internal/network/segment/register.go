package segment

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

// Register has the networks and their file. Its user does the locking.
type Register struct {
	File string // "" keeps nothing
	Nets map[string]*Segment
}

type file struct {
	Version  int
	Networks []spec.Network
}

// Load reads the records and adds the predefined networks that are
// missing from them.
func (g *Register) Load() error {
	if g.File != "" {
		data, err := os.ReadFile(g.File)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil {
			var f file
			if err := json.Unmarshal(data, &f); err != nil {
				return fmt.Errorf("%s: %w", g.File, err)
			}
			if f.Version != 1 {
				return fmt.Errorf("%s: version %d is not known to this engine", g.File, f.Version)
			}
			for _, r := range f.Networks {
				g.Nets[r.ID] = &Segment{Network: r}
			}
		}
	}
	added := false
	for _, p := range spec.Predefined {
		n := g.ByName(p[0])
		if n == nil {
			n = &Segment{Network: spec.Network{ID: id.New(), Name: p[0], Driver: p[1], Created: time.Now().UTC()}}
			g.Nets[n.ID] = n
			added = true
		}
		n.IPAM = network.IPAM{Driver: "default"}
	}
	if !added {
		return nil
	}
	return g.Save()
}

// Save writes the file, durable if a user-defined network is in it.
func (g *Register) Save() error {
	if g.File == "" {
		return nil
	}
	f := file{Version: 1}
	for _, n := range g.Ordered() {
		f.Networks = append(f.Networks, n.Network)
	}
	data, err := json.MarshalIndent(f, "", "\t")
	if err != nil {
		return err
	}
	// An id that is lost costs nothing; a user's network would.
	d := atomicfile.Cached
	if len(f.Networks) > len(spec.Predefined) {
		d = atomicfile.Synced
	}
	return atomicfile.Write(g.File, data, 0o600, d)
}

// ByName finds a network; nil for none.
func (g *Register) ByName(name string) *Segment {
	for _, n := range g.Nets {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Ordered lists the networks by name.
func (g *Register) Ordered() []*Segment {
	out := make([]*Segment, 0, len(g.Nets))
	for _, n := range g.Nets {
		out = append(out, n)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// Find resolves an id, a name or a unique prefix of an id, in this order.
func (g *Register) Find(ref string) (*Segment, error) {
	if n := g.Nets[ref]; n != nil {
		return n, nil
	}
	if ref == network.NetworkDefault {
		ref = network.NetworkBridge
	}
	if n := g.ByName(ref); n != nil {
		return n, nil
	}
	var found []*Segment
	if ref != "" {
		for _, n := range g.Nets {
			if strings.HasPrefix(n.ID, ref) {
				found = append(found, n)
			}
		}
	}
	switch len(found) {
	case 0:
		return nil, errdefs.ErrNotFound.WithMessage("network " + ref + " not found")
	case 1:
		return found[0], nil
	}
	return nil, invalid("network %s is ambiguous (%d matches found based on ID prefix)", ref, len(found))
}

// subnets lists the subnets of all networks in an address space, "" for this host's.
func (g *Register) subnets(space string) []netip.Prefix {
	var out []netip.Prefix
	for _, other := range g.Nets {
		if other.ConfigOnly {
			continue
		}
		for _, c := range other.IPAM.Config {
			if c.Subnet.IsValid() && other.Space(c.Subnet) == space {
				out = append(out, c.Subnet)
			}
		}
	}
	return out
}

// Six reports whether a network has IPv6.
func (g *Register) Six() bool {
	for _, n := range g.Nets {
		if n.EnableIPv6 && !n.ConfigOnly {
			return true
		}
	}
	return false
}
