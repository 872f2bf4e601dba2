package dns

import (
	"net/netip"
	"slices"
	"strings"
)

// Directory finds the endpoints of one network by name and address. Its user
// does the locking; the zero value is empty.
type Directory struct {
	names map[string][]netip.Addr // lower case
	addrs map[netip.Addr]string   // the endpoint's first name
}

func (d *Directory) Add(names []string, a netip.Addr) {
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
func (d *Directory) Lookup(name string) []netip.Addr { return slices.Clone(d.names[name]) }

// Name returns the first name of an address, "" for none.
func (d *Directory) Name(a netip.Addr) string { return d.addrs[a] }
