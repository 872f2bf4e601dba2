package wiring

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/network/dns"
	"github.com/wherry-engine/wherry/internal/network/plugged"
	"github.com/wherry-engine/wherry/internal/network/plumb"
	"github.com/wherry-engine/wherry/internal/network/segment"
)

// DefaultSize is how many wired namespaces wait for containers.
const DefaultSize = 8

// quiet is how long after an Attach the pool fills without being told to.
const quiet = 10 * time.Millisecond

// Pool keeps namespaces ready for containers of the default network and for
// containers without one. It only hides latency: empty or of size 0,
// everything works the same. The namespaces are descriptors of this process
// and go with it, their links and addresses too.
type Pool struct {
	Fit    *plumb.Fitter
	main   func() *segment.Segment // the default network, nil without
	size   int                     // wired
	spares int                     // with a loopback alone, and as many with a name service and one pair
	serve  func(ns *os.File) (*dns.Client, error)
	plugs  *plugged.Drivers

	making sync.Mutex // held while a wired one is made: it has its address before it is ready

	mu     sync.Mutex
	ready  []*Wire
	bare   []*os.File
	served []spare
	wide   int // pairs of one more of these: as many networks as a container had lately
	closed bool
	takes  uint64 // counts hand-outs; the worker pauses for each
	idle   *time.Timer
	armed  bool // idle runs
	wake   chan struct{}
	done   chan struct{}
	ended  chan struct{}
}

// spare is a namespace with a loopback, a name service that nobody asks yet, and
// pairs, to become links of bridges.
type spare struct {
	ns    *os.File
	names *dns.Client
	pairs []plumb.Pair
}

// maxWide bounds how many pairs wait in one spare.
const maxWide = 8

// NewPool makes a pool of size wired namespaces, 0 for the usual number, and fills
// it. main tells the default network, serve gives a namespace its name service.
func NewPool(fit *plumb.Fitter, size int, main func() *segment.Segment, serve func(ns *os.File) (*dns.Client, error), plugs *plugged.Drivers) *Pool {
	p := &Pool{Fit: fit, main: main, serve: serve, plugs: plugs, size: size, wake: make(chan struct{}, 1), done: make(chan struct{}), ended: make(chan struct{})}
	if p.size == 0 {
		p.size = DefaultSize
	}
	p.size = max(p.size, 0)
	p.spares = min(p.size, 2)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = true
	p.idle = time.AfterFunc(quiet, func() {
		p.mu.Lock()
		p.armed = false
		p.mu.Unlock()
		p.Refill()
	})
	go p.work()
	return p
}

// take hands out a wired namespace of the default network, nil when none is
// ready. The caller now owns its descriptor and its address.
func (p *Pool) take() *Wire {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken()
	if len(p.ready) == 0 {
		return nil
	}
	w := p.ready[0]
	p.ready = slices.Delete(p.ready, 0, 1)
	return w
}

// takeBare hands out a namespace with a loopback alone, nil when none is ready.
func (p *Pool) takeBare() *os.File {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken()
	if len(p.bare) == 0 {
		return nil
	}
	ns := p.bare[0]
	p.bare = slices.Delete(p.bare, 0, 1)
	return ns
}

// taken puts the filling off: the start that this is for comes first.
func (p *Pool) taken() {
	p.takes++
	p.arm()
}

// arm sees to it that the worker looks again. p.mu is held.
func (p *Pool) arm() {
	if !p.closed && p.size > 0 && !p.armed {
		p.armed = true
		p.idle.Reset(quiet)
	}
}

// Refill lets it fill up in the background now.
func (p *Pool) Refill() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Owns reports whether a link of the host is the end of one that waits.
func (p *Pool) Owns(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.served, func(s spare) bool {
		return slices.ContainsFunc(s.pairs, func(pair plumb.Pair) bool { return pair.Owns(name) })
	})
}

// takeServed hands out the spare of a container with so many links of bridges:
// the one with the most pairs of those that leave none over; empty when there is none.
func (p *Pool) takeServed(links int) (s spare) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken()
	if links > 1 {
		p.wide = min(links, maxWide)
	}
	best := -1
	for i, x := range p.served {
		if len(x.pairs) <= links && (best < 0 || len(x.pairs) > len(p.served[best].pairs)) {
			best = i
		}
	}
	if best >= 0 {
		s = p.served[best]
		p.served = slices.Delete(p.served, best, best+1)
	}
	return s
}

// lacking tells which spare is to be made, by its pairs; p.mu is held.
func (p *Pool) lacking() (pairs int, lacks bool) {
	narrow, wide := 0, false
	for _, s := range p.served {
		if len(s.pairs) == 1 {
			narrow++
		}
		wide = wide || len(s.pairs) == p.wide
	}
	switch {
	case narrow < p.spares:
		return 1, true
	case p.wide > 1 && p.spares > 0 && !wide && len(p.served) <= p.spares:
		return p.wide, true
	}
	return 0, false
}

// evict drops a waiting namespace that has the address; it reports whether
// there was one.
func (p *Pool) evict(n *segment.Segment, a netip.Addr) bool {
	if p.drop(n, a) {
		return true
	}
	p.making.Lock() // it may be about to be ready
	defer p.making.Unlock()
	return p.drop(n, a)
}

func (p *Pool) drop(n *segment.Segment, a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, w := range p.ready {
		if w.Seg == n && slices.Contains(w.Addrs[:], a) {
			p.ready = slices.Delete(p.ready, i, i+1)
			w.ns.Close()
			n.Free(w.Addrs)
			return true
		}
	}
	return false
}

// Retake makes the addresses of an adopted endpoint its own again.
func (p *Pool) Retake(n *segment.Segment, ep *network.EndpointSettings) error {
	for _, a := range segment.AddressesOf(ep) {
		addrs := n.At(a).Addrs
		if addrs == nil {
			continue
		}
		err := addrs.Take(a)
		if errdefs.IsAlreadyExists(err) && p.evict(n, a) {
			err = addrs.Take(a)
		}
		if err != nil {
			return fmt.Errorf("address %s: %w", a, err)
		}
	}
	return nil
}

// Held returns how many addresses of a network's subnet wait in the pool.
func (p *Pool) Held(n *segment.Segment, subnet netip.Prefix) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	count := 0
	for _, w := range p.ready {
		if w.Seg == n && slices.ContainsFunc(w.Addrs[:], subnet.Contains) {
			count++
		}
	}
	return count
}

// Waiting tells how many wired namespaces wait, and whether all those without a
// network do.
func (p *Pool) Waiting() (wired int, spared bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, lacks := p.lacking()
	return len(p.ready), len(p.bare) == p.spares && !lacks
}

func (p *Pool) work() {
	defer close(p.ended)
	for {
		select {
		case <-p.done:
			return
		case <-p.wake:
		}
		p.fill()
	}
}

// fill makes one namespace after the other until the pool is full. When an
// Attach comes in between it leaves the processors to that start and goes on
// later.
func (p *Pool) fill() {
	p.mu.Lock()
	start := p.takes
	p.mu.Unlock()
	for {
		p.mu.Lock()
		stop := p.closed || p.takes != start
		wired, bare := len(p.ready) < p.size, len(p.bare) < p.spares
		pairs, served := p.lacking()
		p.mu.Unlock()
		if stop {
			p.mu.Lock()
			p.arm()
			p.mu.Unlock()
			return
		}
		var err error
		switch {
		case wired && p.main() != nil:
			err = p.addWired(p.main())
		case bare:
			err = p.addBare()
		case served:
			err = p.addServed(pairs)
		default:
			return
		}
		if err != nil {
			logger().Warn("no network namespace for the pool", "error", err)
			return
		}
	}
}

func (p *Pool) addWired(n *segment.Segment) error {
	p.making.Lock()
	defer p.making.Unlock()
	w, err := p.Plug(context.Background(), Wish{Seg: n, Want: &network.EndpointSettings{}})
	if err != nil {
		return err
	}
	for _, f := range segment.Families {
		w.Gateway[f] = n.Exits(f)
	}
	w.ns, err = p.spawn([]*Wire{w})
	if err != nil {
		n.Free(w.Addrs)
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		w.ns.Close()
		n.Free(w.Addrs)
		return nil
	}
	p.ready = append(p.ready, w)
	return nil
}

func (p *Pool) addServed(pairs int) error {
	ns, made, err := p.Fit.SpawnAhead(pairs)
	if err != nil {
		return err
	}
	names, err := p.serve(ns)
	if err != nil {
		ns.Close()
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		ns.Close()
		go names.Close()
		return nil
	}
	p.served = append(p.served, spare{ns, names, made})
	return nil
}

func (p *Pool) addBare() error {
	ns, err := p.Fit.Spawn(nil)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		ns.Close()
		return nil
	}
	p.bare = append(p.bare, ns)
	return nil
}

// Close lets everything that waits go and returns when the worker has ended.
func (p *Pool) Close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	p.idle.Stop()
	for _, w := range p.ready {
		w.ns.Close()
		w.Seg.Free(w.Addrs)
	}
	for _, ns := range p.bare {
		ns.Close()
	}
	for _, s := range p.served {
		s.ns.Close()
		s.names.Close()
	}
	p.ready, p.bare, p.served = nil, nil, nil
	p.mu.Unlock()
	close(p.done)
	<-p.ended
}

func invalid(format string, a ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, a...))
}

func logger() *slog.Logger { return slog.With("part", "network") }
