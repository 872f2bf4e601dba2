package nft

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	nftSubsystem  = unix.NFNL_SUBSYS_NFTABLES
	nftaTableName = 1
)

// Watch tells when a table is deleted, by whomever.
type Watch struct{ f *os.File }

// NewWatch listens in the calling thread's network namespace.
func NewWatch() (*Watch, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("nftables socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch nftables: %w", err)
	}
	return &Watch{os.NewFile(uintptr(fd), "nftables")}, nil
}

// Close ends Run.
func (w *Watch) Close() error { return w.f.Close() }

// Run calls deleted each time that an inet table of that name may have been
// deleted, and changed when chains or rules of other tables may have, until
// Close. Replacing a table looks the same: look again.
func (w *Watch) Run(table string, deleted, changed func()) {
	buf := make([]byte, 64<<10)
	for {
		n, err := w.f.Read(buf)
		if errors.Is(err, unix.ENOBUFS) {
			deleted() // some notices were lost
			changed()
			continue
		}
		if err != nil {
			return
		}
		gone, other := false, false
		_, _ = eachMessage(buf[:n], func(kind uint16, payload []byte) {
			if kind>>8 != nftSubsystem || len(payload) < 4 {
				return
			}
			switch kind & 0xff {
			case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
			default:
				return
			}
			eachAttr(payload[4:], func(attr uint16, value []byte) {
				if attr != nftaTableName { // the first attribute of all of them
					return
				}
				ours := payload[0] == unix.NFPROTO_INET && string(bytes.TrimRight(value, "\x00")) == table
				gone = gone || ours && kind&0xff == unix.NFT_MSG_DELTABLE
				other = other || !ours && kind&0xff != unix.NFT_MSG_DELTABLE
			})
		})
		if gone {
			deleted()
		}
		if other {
			changed()
		}
	}
}
