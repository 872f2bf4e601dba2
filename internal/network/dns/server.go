// Package dns owns the name service inside containers: it answers for the
// names it is told about and forwards the rest as it came.
package dns

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	ttl             = 600 // seconds, as docker answers
	upstreamTimeout = 4 * time.Second
	idleTimeout     = 30 * time.Second
	maxForwards     = 1024 // under way at once, for one server
	maxClients      = 128  // TCP connections at once
	maxQuestion     = 4096 // bytes; a question is one name and a few options
)

// Names is what a server asks. It is called from many goroutines.
type Names interface {
	// Lookup finds the addresses of a name, without its last dot; known says
	// that the name is ours even when it has none of the wanted family.
	Lookup(name string) (addrs []netip.Addr, known bool)
	// Reverse finds the name of an address, "" for none of ours.
	Reverse(a netip.Addr) string
	// Upstreams are asked in order for what is not ours, unless the memory of
	// them knows; none answers SERVFAIL.
	Upstreams() ([]Upstream, *Memory)
}

// Upstream is a server to forward to.
type Upstream struct {
	Addr netip.AddrPort
	// Dial connects from where the server can be reached ("udp" or "tcp").
	Dial func(network string, to netip.AddrPort) (net.Conn, error)
}

// Server answers on one pair of sockets until Close.
type Server struct {
	names    Names
	udp      net.PacketConn
	tcp      net.Listener
	forwards chan struct{}
	clients  chan struct{}
	wg       sync.WaitGroup

	mu    sync.Mutex
	open  map[io.Closer]struct{}
	ended bool
}

// Serve starts answering. The sockets are the server's from here on.
func Serve(udp net.PacketConn, tcp net.Listener, names Names) *Server {
	s := &Server{names: names, udp: udp, tcp: tcp, forwards: make(chan struct{}, maxForwards), clients: make(chan struct{}, maxClients), open: map[io.Closer]struct{}{}}
	s.wg.Go(s.serveUDP)
	s.wg.Go(s.serveTCP)
	return s
}

// Close stops answering and returns when nothing is under way any more.
func (s *Server) Close() {
	s.mu.Lock()
	s.ended = true
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.udp.Close()
	s.tcp.Close()
	s.wg.Wait()
}

// keep registers a connection that Close must break off; false when it is too late.
func (s *Server) keep(c io.Closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		c.Close()
		return false
	}
	s.open[c] = struct{}{}
	return true
}

func (s *Server) forget(c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	c.Close()
}

func (s *Server) serveUDP() {
	buf := make([]byte, maxQuestion)
	for {
		n, from, err := s.udp.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier answer
		}
		q := question(buf[:n])
		if q == nil {
			continue
		}
		if out := s.quick("udp", q, buf[:n]); out != nil {
			s.udp.WriteTo(out, from)
			continue
		}
		raw := append([]byte(nil), buf[:n]...)
		select {
		case s.forwards <- struct{}{}:
		default:
			s.refuse(q, from)
			continue
		}
		s.wg.Go(func() {
			defer func() { <-s.forwards }()
			s.udp.WriteTo(s.forward("udp", q, raw), from)
		})
	}
}

// question reads a message; nil when it is none that can be answered.
func question(raw []byte) *dns.Msg {
	q := new(dns.Msg)
	if q.Unpack(raw) != nil || q.Response || len(q.Question) != 1 {
		return nil
	}
	return q
}

// quick answers what needs nobody else: our names, and what is remembered.
func (s *Server) quick(network string, q *dns.Msg, raw []byte) []byte {
	answer := s.local(q)
	if answer == nil {
		servers, memory := s.names.Upstreams()
		if key, ok := cacheKey(network, q, raw); ok && len(servers) > 0 {
			return memory.get(origin(servers), key, raw, time.Now())
		}
		return nil
	}
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize()))
		answer.SetEdns0(maxQuestion, opt.Do())
		if opt.Version() != 0 {
			answer.Answer, answer.Rcode = nil, dns.RcodeBadVers
		}
	}
	if network == "udp" {
		answer.Truncate(size)
	}
	out, err := answer.Pack()
	if err != nil {
		return nil
	}
	return out
}

// origin names the servers that an answer may come from.
func origin(servers []Upstream) string {
	var b []byte
	for _, u := range servers {
		b = u.Addr.AppendTo(b)
		b = append(b, ' ')
	}
	return string(b)
}

func (s *Server) refuse(q *dns.Msg, to net.Addr) {
	if out, err := new(dns.Msg).SetRcode(q, dns.RcodeRefused).Pack(); err == nil {
		s.udp.WriteTo(out, to)
	}
}

func (s *Server) serveTCP() {
	for {
		c, err := s.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(50 * time.Millisecond) // out of descriptors; clients wait in the backlog
			continue
		}
		select {
		case s.clients <- struct{}{}:
		default:
			c.Close()
			continue
		}
		s.wg.Go(func() {
			defer func() { <-s.clients }()
			s.client(c)
		})
	}
}

func (s *Server) client(c net.Conn) {
	if !s.keep(c) {
		return
	}
	defer s.forget(c)
	for {
		c.SetDeadline(time.Now().Add(idleTimeout))
		raw, err := readTCP(c)
		if err != nil {
			return
		}
		q := question(raw)
		if q == nil {
			return
		}
		out := s.quick("tcp", q, raw)
		if out == nil {
			out = s.forward("tcp", q, raw)
		}
		if writeTCP(c, out) != nil {
			return
		}
	}
}

func readTCP(c net.Conn) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(c, b)
	return b, err
}

func writeTCP(c net.Conn, b []byte) error {
	_, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}

// local answers a question about our names; nil when it is not about one.
func (s *Server) local(q *dns.Msg) *dns.Msg {
	question := q.Question[0]
	if question.Qclass != dns.ClassINET {
		return nil
	}
	answer := new(dns.Msg).SetReply(q)
	answer.RecursionAvailable = true
	head := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: ttl}
	if question.Qtype == dns.TypePTR {
		a, ok := reverseAddr(question.Name)
		if !ok {
			return nil
		}
		name := s.names.Reverse(a)
		if name == "" {
			return nil
		}
		answer.Answer = []dns.RR{&dns.PTR{Hdr: head, Ptr: dns.Fqdn(name)}}
		return answer
	}
	addrs, known := s.names.Lookup(strings.ToLower(strings.TrimSuffix(question.Name, ".")))
	if !known {
		return nil
	}
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] }) //nolint:gosec // it spreads load, it hides nothing
	for _, a := range addrs {
		switch {
		case question.Qtype == dns.TypeA && a.Is4():
			answer.Answer = append(answer.Answer, &dns.A{Hdr: head, A: a.AsSlice()})
		case question.Qtype == dns.TypeAAAA && a.Is6():
			answer.Answer = append(answer.Answer, &dns.AAAA{Hdr: head, AAAA: a.AsSlice()})
		}
	}
	return answer
}

// reverseAddr reads "1.2.0.192.in-addr.arpa." and its IPv6 likeness.
func reverseAddr(name string) (netip.Addr, bool) {
	name = strings.ToLower(name)
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		p := strings.Split(rest, ".")
		if len(p) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(p[3] + "." + p[2] + "." + p[1] + "." + p[0])
		return a, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa.")
	p := strings.Split(rest, ".")
	if !ok || len(p) != 32 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := 31; i >= 0; i-- {
		b.WriteString(p[i])
		if i%4 == 0 && i > 0 {
			b.WriteByte(':')
		}
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil
}

// forward asks the upstreams one after the other with the question as it came
// and returns the first answer that is one, as it came. Only the number is
// ours: who asks must not be able to guess what an answer has to look like.
func (s *Server) forward(network string, q *dns.Msg, raw []byte) []byte {
	servers, memory := s.names.Upstreams()
	from := origin(servers)
	key, keep := cacheKey(network, q, raw)
	ours := *q
	ours.Id = dns.Id()
	binary.BigEndian.PutUint16(raw, ours.Id)
	if memory != nil {
		memory.order(servers, time.Now())
	}
	for _, u := range servers {
		answer, err := s.ask(network, u, &ours, raw)
		memory.answered(u.Addr, err == nil, time.Now())
		if err != nil {
			continue
		}
		if code := answer[3] & 15; code == dns.RcodeServerFailure || code == dns.RcodeRefused {
			continue
		}
		binary.BigEndian.PutUint16(answer, q.Id)
		if keep {
			memory.put(from, key, answer, time.Now())
		}
		return answer
	}
	out, err := new(dns.Msg).SetRcode(q, dns.RcodeServerFailure).Pack()
	if err != nil {
		return nil
	}
	return out
}

func (s *Server) ask(network string, u Upstream, q *dns.Msg, raw []byte) ([]byte, error) {
	c, err := u.Dial(network, u.Addr)
	if err != nil {
		return nil, err
	}
	if !s.keep(c) {
		return nil, net.ErrClosed
	}
	defer s.forget(c)
	c.SetDeadline(time.Now().Add(upstreamTimeout))
	if network == "tcp" {
		if err := writeTCP(c, raw); err != nil {
			return nil, err
		}
		b, err := readTCP(c)
		if err != nil || !answers(b, q) {
			return nil, errors.Join(err, errors.New("not an answer"))
		}
		return b, nil
	}
	if _, err := c.Write(raw); err != nil {
		return nil, err
	}
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		if answers(buf[:n], q) { // what does not is somebody's forgery
			return buf[:n], nil
		}
	}
}

// answers reports whether b is a response to the question.
func answers(b []byte, q *dns.Msg) bool {
	m := new(dns.Msg)
	if len(b) < 12 || binary.BigEndian.Uint16(b) != q.Id || b[2]&0x80 == 0 || m.Unpack(b) != nil {
		return false
	}
	return len(m.Question) == 1 && strings.EqualFold(m.Question[0].Name, q.Question[0].Name) && m.Question[0].Qtype == q.Question[0].Qtype
}
