// Package portmap owns the ports of the host that containers publish: which
// are taken, and the sockets that keep them from everybody else. The sockets
// also carry what the rules cannot translate (IPv6 to a container that has
// only IPv4; the host's loopback where the rules do not serve it).
package portmap

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Want asks for one port of the host on all of IPs at once.
type Want struct {
	Proto  string // tcp, udp, sctp
	IPs    []netip.Addr
	Lo, Hi uint16 // the first free one of the range; 0, 0 is any of the ephemeral range
	// Targets are the container's port by IPv4 and by IPv6; invalid for none.
	Targets [2]netip.AddrPort
	Proxy   bool // carry what arrives at the socket to the target
}

// target is where what arrives at an address of the host is carried.
func (w *Want) target(at netip.Addr) netip.AddrPort {
	first := 0
	if at.Is6() {
		first = 1
	}
	if t := w.Targets[first]; t.IsValid() {
		return t
	}
	return w.Targets[1-first]
}

// Table knows the taken ports. It is safe for concurrent use.
type Table struct {
	lo, hi uint16

	mu    sync.Mutex
	taken map[key][]netip.Addr
	next  uint16
}

type key struct {
	proto string
	port  uint16
}

// New makes a table; random ports come from the kernel's ephemeral range.
func New() *Table {
	t := &Table{lo: 49153, hi: 65535, taken: map[key][]netip.Addr{}}
	if data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		if f := strings.Fields(string(data)); len(f) == 2 {
			lo, e1 := strconv.ParseUint(f[0], 10, 16)
			hi, e2 := strconv.ParseUint(f[1], 10, 16)
			if e1 == nil && e2 == nil && lo > 0 && lo <= hi {
				t.lo, t.hi = uint16(lo), uint16(hi)
			}
		}
	}
	t.next = t.lo
	return t
}

// Lease is a port that is held until Close.
type Lease struct {
	Want
	Port uint16

	table   *Table
	sockets []closer
}

type closer interface{ Close() error }

// Reserve takes a port. It fails in docker's words: errdefs.ErrConflict's kind
// stays with the caller, a port that is somebody's is an error of no kind as
// dockerd has it (status 500).
func (t *Table) Reserve(w Want) (*Lease, error) {
	if len(w.IPs) == 0 || !slices.Contains([]string{"tcp", "udp", "sctp"}, w.Proto) {
		return nil, errdefs.ErrInvalidArgument.WithMessage("invalid port mapping: " + w.Proto)
	}
	random := w.Lo == 0 && w.Hi == 0
	lo, hi := w.Lo, w.Hi
	if random {
		lo, hi = t.lo, t.hi
	}
	if hi < lo || lo == 0 {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid port range: %d-%d", w.Lo, w.Hi))
	}
	port := lo
	if random {
		t.mu.Lock()
		port = t.next
		t.mu.Unlock()
	}
	var last error
	for range int(hi) - int(lo) + 1 {
		l, err := t.try(w, port)
		if err == nil {
			if random {
				t.mu.Lock()
				t.next = t.following(port)
				t.mu.Unlock()
			}
			return l, nil
		}
		last = err
		// Only a port that somebody has is a reason to look further.
		if taken := (*takenError)(nil); !errors.As(err, &taken) && !errors.Is(err, unix.EADDRINUSE) {
			return nil, err
		}
		if port++; port > hi || port == 0 {
			port = lo
		}
	}
	if lo != hi {
		return nil, errors.New("all ports are allocated")
	}
	return nil, last
}

func (t *Table) following(p uint16) uint16 {
	if p >= t.hi {
		return t.lo
	}
	return p + 1
}

type takenError struct {
	ip   netip.Addr
	port uint16
}

func (e *takenError) Error() string {
	return fmt.Sprintf("Bind for %s:%d failed: port is already allocated", e.ip, e.port)
}

func (t *Table) try(w Want, port uint16) (*Lease, error) {
	if err := t.mark(w, port); err != nil {
		return nil, err
	}
	l := &Lease{Want: w, Port: port, table: t}
	for _, ip := range w.IPs {
		s, err := hold(w, netip.AddrPortFrom(ip, port))
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("failed to bind host port %s/%s: %w", netip.AddrPortFrom(ip, port), w.Proto, bare(err))
		}
		if s != nil {
			l.sockets = append(l.sockets, s)
		}
	}
	return l, nil
}

// bare is the errno alone, as docker says it.
func bare(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

func (t *Table) mark(w Want, port uint16) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := key{w.Proto, port}
	for _, ip := range w.IPs {
		for _, other := range t.taken[k] {
			if ip == other || ip.Is4() == other.Is4() && (ip.IsUnspecified() || other.IsUnspecified()) {
				return &takenError{ip, port}
			}
		}
	}
	t.taken[k] = append(t.taken[k], w.IPs...)
	return nil
}

// Close gives the port back. It is idempotent.
func (l *Lease) Close() {
	for _, s := range l.sockets {
		s.Close()
	}
	l.sockets = nil
	if l.table == nil {
		return
	}
	l.table.mu.Lock()
	defer l.table.mu.Unlock()
	k := key{l.Proto, l.Port}
	l.table.taken[k] = slices.DeleteFunc(l.table.taken[k], func(a netip.Addr) bool { return slices.Contains(l.IPs, a) })
	if len(l.table.taken[k]) == 0 {
		delete(l.table.taken, k)
	}
	l.table = nil
}
