package dns

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// Directory finds the endpoints of one network by name and address. It is safe
// for concurrent use; the zero value is empty.
type Directory struct {
	mu    sync.RWMutex
	names map[string][]netip.Addr // lower case
	addrs map[netip.Addr]string   // the endpoint's first name
}

func (d *Directory) Add(names []string, a netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names == nil {
		d.names, d.addrs = map[string][]netip.Addr{}, map[netip.Addr]string{}
	}
	for _, n := range names {
		n = strings.ToLower(n)
		if !slices.Contains(d.names[n], a) {
			d.names[n] = append(d.names[n], a)
		}
	}
	if len(names) > 0 {
		d.addrs[a] = names[0]
	}
}

func (d *Directory) Remove(a netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.addrs, a)
	for n, list := range d.names {
		list = slices.DeleteFunc(slices.Clone(list), func(x netip.Addr) bool { return x == a })
		if len(list) == 0 {
			delete(d.names, n)
		} else {
			d.names[n] = list
		}
	}
}

// Lookup returns the addresses of a name in lower case.
func (d *Directory) Lookup(name string) []netip.Addr {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Clone(d.names[name])
}

// Name returns the first name of an address, "" for none.
func (d *Directory) Name(a netip.Addr) string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.addrs[a]
}
