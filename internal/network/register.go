package network

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
)

// register has the networks and their file. Its user does the locking.
type register struct {
	file string // "" keeps nothing
	nets map[string]*segment
}

// load reads the records and adds the predefined networks that are
// missing from them.
func (g *register) load() error {
	if g.file != "" {
		data, err := os.ReadFile(g.file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil {
			var f recordFile
			if err := json.Unmarshal(data, &f); err != nil {
				return fmt.Errorf("%s: %w", g.file, err)
			}
			if f.Version != 1 {
				return fmt.Errorf("%s: version %d is not known to this engine", g.file, f.Version)
			}
			for _, r := range f.Networks {
				g.nets[r.ID] = &segment{record: r}
			}
		}
	}
	added := false
	for _, p := range predefined {
		n := g.byName(p[0])
		if n == nil {
			n = &segment{record: record{ID: id.New(), Name: p[0], Driver: p[1], Created: time.Now().UTC()}}
			g.nets[n.ID] = n
			added = true
		}
		n.IPAM = network.IPAM{Driver: "default"}
	}
	if !added {
		return nil
	}
	return g.save()
}

func (g *register) save() error {
	if g.file == "" {
		return nil
	}
	f := recordFile{Version: 1}
	for _, n := range g.ordered() {
		f.Networks = append(f.Networks, n.record)
	}
	data, err := json.MarshalIndent(f, "", "\t")
	if err != nil {
		return err
	}
	// An id that is lost costs nothing; a user's network would.
	d := atomicfile.Cached
	if len(f.Networks) > len(predefined) {
		d = atomicfile.Synced
	}
	return atomicfile.Write(g.file, data, 0o600, d)
}

func (g *register) byName(name string) *segment {
	for _, n := range g.nets {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// ordered lists the networks by name.
func (g *register) ordered() []*segment {
	out := make([]*segment, 0, len(g.nets))
	for _, n := range g.nets {
		out = append(out, n)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// find resolves an id, a name or a unique prefix of an id, in this order.

func (g *register) find(ref string) (*segment, error) {
	if n := g.nets[ref]; n != nil {
		return n, nil
	}
	if ref == network.NetworkDefault {
		ref = network.NetworkBridge
	}
	if n := g.byName(ref); n != nil {
		return n, nil
	}
	var found []*segment
	if ref != "" {
		for _, n := range g.nets {
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

// subnets lists the subnets of all networks.
func (g *register) subnets() []netip.Prefix {
	var out []netip.Prefix
	for _, n := range g.nets {
		for _, c := range n.IPAM.Config {
			if c.Subnet.IsValid() {
				out = append(out, c.Subnet)
			}
		}
	}
	return out
}
