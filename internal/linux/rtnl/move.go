package rtnl

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Move puts a link, which must be down, into the network namespace of a
// descriptor, where it has another name. It loses its addresses and its master.
func (b *Batch) Move(index, ns int, name string) {
	at := b.begin(fmt.Sprintf("move link %d to another namespace as %s", index, name), unix.RTM_NEWLINK, 0)
	b.enc.ifinfo(unix.AF_UNSPEC, index, 0, 0)
	b.enc.u32(unix.IFLA_NET_NS_FD, uint32(ns))
	b.name(&b.enc, name)
	b.enc.end(at)
}
