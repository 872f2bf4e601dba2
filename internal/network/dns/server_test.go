package dns

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// world is a name server of the outside that counts what it is asked.
type world struct {
	asked atomic.Int32
	addr  netip.AddrPort
	reply func(q *dns.Msg) *dns.Msg
}

func newWorld(t testing.TB, reply func(q *dns.Msg) *dns.Msg) *world {
	t.Helper()
	pc, l := listen(t)
	w := &world{addr: pc.LocalAddr().(*net.UDPAddr).AddrPort(), reply: reply}
	h := dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) {
		w.asked.Add(1)
		if r := w.reply(q); r != nil {
			rw.WriteMsg(r)
		}
	})
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: h}, {Listener: l, Handler: h}} {
		go s.ActivateAndServe()
		t.Cleanup(func() { s.Shutdown() })
	}
	return w
}

// listen takes a port for both protocols. The one that is free for udp may be
// taken for tcp by somebody else on this machine.
func listen(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	var failed error
	for range 100 {
		pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp4", pc.LocalAddr().String())
		if err == nil {
			return pc, l
		}
		failed = err
		pc.Close()
	}
	t.Fatal(failed)
	return nil, nil
}

// answering gives a TXT record of a TTL, or says that "missing" is not there.
func answering(text string, ttl int) func(q *dns.Msg) *dns.Msg {
	return func(q *dns.Msg) *dns.Msg {
		r := new(dns.Msg).SetReply(q)
		r.RecursionAvailable = true
		name := q.Question[0].Name
		if strings.HasPrefix(strings.ToLower(name), "missing.") {
			r.Rcode = dns.RcodeNameError
			soa, _ := dns.NewRR("example. 60 IN SOA ns.example. root.example. 1 2 3 4 60")
			r.Ns = []dns.RR{soa}
			return r
		}
		rr, _ := dns.NewRR(fmt.Sprintf("%s %d IN TXT %s", name, ttl, text))
		r.Answer = []dns.RR{rr}
		if q.IsEdns0() != nil {
			r.SetEdns0(4096, false)
		}
		return r
	}
}

// place is a container for the tests, without a namespace.
type place struct {
	dir     Directory
	servers []netip.AddrPort
	memory  Memory
}

func (p *place) Lookup(name string) ([]netip.Addr, bool) {
	list := p.dir.Lookup(name)
	return list, len(list) > 0
}
func (p *place) Reverse(a netip.Addr) string { return p.dir.Name(a) }
func (p *place) Upstreams() ([]Upstream, *Memory) {
	var out []Upstream
	for _, a := range p.servers {
		out = append(out, Upstream{a, func(network string, to netip.AddrPort) (net.Conn, error) { return net.Dial(network, to.String()) }})
	}
	return out, &p.memory
}

func serve(t testing.TB, p *place) string {
	t.Helper()
	udp, tcp := listen(t)
	s := Serve(udp, tcp, p)
	t.Cleanup(s.Close)
	return udp.LocalAddr().String()
}

func ask(t testing.TB, at, proto string, q *dns.Msg) *dns.Msg {
	t.Helper()
	r, _, err := (&dns.Client{Net: proto, Timeout: 10 * time.Second}).Exchange(q, at)
	if err != nil {
		t.Fatalf("%s %s: %v", proto, q.Question[0].Name, err)
	}
	return r
}

func TestCache(t *testing.T) {
	w := newWorld(t, answering("out", 300))
	p := &place{servers: []netip.AddrPort{w.addr}}
	at := serve(t, p)
	for i, c := range []struct {
		name  string
		kind  uint16
		proto string
		edit  func(q *dns.Msg)
		asked int32 // by the end
		rcode int
	}{
		{name: "www.example.", asked: 1},
		{name: "www.example.", asked: 1},
		{name: "WWW.Example.", asked: 1},                                                    // the same name
		{name: "www.example.", proto: "tcp", asked: 2},                                      // may be longer
		{name: "www.example.", kind: dns.TypeA, asked: 3},                                   // another question
		{name: "www.example.", edit: func(q *dns.Msg) { q.SetEdns0(1232, true) }, asked: 4}, // signatures
		{name: "www.example.", edit: func(q *dns.Msg) { q.SetEdns0(1232, true) }, asked: 4},
		{name: "missing.example.", asked: 5, rcode: dns.RcodeNameError},
		{name: "missing.example.", asked: 5, rcode: dns.RcodeNameError},
	} {
		if c.kind == 0 {
			c.kind = dns.TypeTXT
		}
		if c.proto == "" {
			c.proto = "udp"
		}
		q := new(dns.Msg).SetQuestion(c.name, c.kind)
		if c.edit != nil {
			c.edit(q)
		}
		r := ask(t, at, c.proto, q)
		if r.Id != q.Id || r.Question[0] != q.Question[0] || r.Rcode != c.rcode {
			t.Errorf("%d: question %v, answer\n%v", i, q.Question[0], r)
		}
		if c.rcode == 0 && (len(r.Answer) != 1 || !strings.EqualFold(r.Answer[0].Header().Name, c.name)) {
			t.Errorf("%d: %v", i, r)
		}
		if n := w.asked.Load(); n != c.asked {
			t.Errorf("%d %s: the server was asked %d times, want %d", i, c.name, n, c.asked)
		}
	}
	// Other servers may know better: nothing of the first is kept.
	other := newWorld(t, answering("other", 300))
	p.servers = []netip.AddrPort{other.addr}
	if r := ask(t, at, "udp", new(dns.Msg).SetQuestion("www.example.", dns.TypeTXT)); !strings.Contains(r.String(), `"other"`) {
		t.Errorf("after a change of servers:\n%v", r)
	}
}

// TestCacheTime: an answer grows old, and is not kept longer than it says.
func TestCacheTime(t *testing.T) {
	for _, c := range []struct {
		ttl  int
		age  time.Duration
		want int // TTL then; -1 when it is not known any more
	}{{300, 10 * time.Second, 290}, {300, 301 * time.Second, -1}, {0, 0, -1}, {1 << 30, 59 * time.Minute, 1<<30 - 59*60}, {1 << 30, 61 * time.Minute, -1}} {
		q := new(dns.Msg).SetQuestion("www.example.", dns.TypeTXT)
		raw, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		answer, err := answering("x", c.ttl)(q).Pack()
		if err != nil {
			t.Fatal(err)
		}
		var m Memory
		now := time.Now()
		key, ok := cacheKey("udp", q, raw)
		if !ok {
			t.Fatal("no key")
		}
		m.put("s", key, answer, now)
		got := -1
		if b := m.get("s", key, raw, now.Add(c.age)); b != nil {
			r := new(dns.Msg)
			if err := r.Unpack(b); err != nil {
				t.Fatal(err)
			}
			got = int(r.Answer[0].Header().Ttl)
		}
		if got != c.want {
			t.Errorf("TTL %d after %v: %d, want %d", c.ttl, c.age, got, c.want)
		}
	}
}

// TestCacheBound: a container that asks for ever new names costs no more memory.
func TestCacheBound(t *testing.T) {
	var m Memory
	now := time.Now()
	for i := range 2 * maxCached {
		q := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.example.", i), dns.TypeTXT)
		raw, _ := q.Pack()
		key, _ := cacheKey("udp", q, raw)
		answer, err := answering("x", 60)(q).Pack()
		if err != nil {
			t.Fatal(err)
		}
		m.put("s", key, answer, now)
	}
	if len(m.m) > maxCached {
		t.Errorf("%d answers are kept", len(m.m))
	}
}

func TestEDNS(t *testing.T) {
	p := &place{}
	for i := range 60 {
		p.dir.Add([]string{"many"}, netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}))
	}
	at := serve(t, p)
	q := func() *dns.Msg { return new(dns.Msg).SetQuestion("many.", dns.TypeA) }
	r := ask(t, at, "udp", q())
	r.Compress = true
	if !r.Truncated || r.Len() > dns.MinMsgSize || r.IsEdns0() != nil {
		t.Errorf("without EDNS: truncated %t, %d bytes", r.Truncated, r.Len())
	}
	if r := ask(t, at, "tcp", q()); r.Truncated || len(r.Answer) != 60 {
		t.Errorf("tcp: %d answers", len(r.Answer))
	}
	if r := ask(t, at, "udp", q().SetEdns0(4096, false)); r.Truncated || len(r.Answer) != 60 || r.IsEdns0() == nil {
		t.Errorf("with EDNS: truncated %t, %d answers, %v", r.Truncated, len(r.Answer), r.IsEdns0())
	}
	odd := q().SetEdns0(4096, false)
	odd.IsEdns0().SetVersion(1)
	if r := ask(t, at, "udp", odd); r.Rcode != dns.RcodeBadVers || len(r.Answer) > 0 {
		t.Errorf("EDNS of the future: %v", r)
	}
	// Every address comes first at some time.
	first := map[string]bool{}
	for range 200 {
		first[ask(t, at, "tcp", q()).Answer[0].String()] = true
	}
	if len(first) < 20 {
		t.Errorf("only %d of 60 addresses came first in 200 answers", len(first))
	}
}

// TestMuteServer: one that does not answer is waited for once, not each time,
// and where there is no other the answer says so, after one question each.
func TestMuteServer(t *testing.T) {
	t.Run("with another", func(t *testing.T) {
		t.Parallel()
		mute := newWorld(t, func(*dns.Msg) *dns.Msg { return nil })
		w := newWorld(t, answering("out", 0))
		at := serve(t, &place{servers: []netip.AddrPort{mute.addr, w.addr}})
		for i := range 5 {
			if r := ask(t, at, "udp", new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.example.", i), dns.TypeTXT)); r.Rcode != 0 {
				t.Errorf("%v", r)
			}
		}
		if n := mute.asked.Load(); n != 1 {
			t.Errorf("the mute server was asked %d times", n)
		}
		if n := w.asked.Load(); n != 5 {
			t.Errorf("the other server was asked %d times", n)
		}
	})
	t.Run("alone", func(t *testing.T) {
		t.Parallel()
		mute := newWorld(t, func(*dns.Msg) *dns.Msg { return nil })
		at := serve(t, &place{servers: []netip.AddrPort{mute.addr}})
		if r := ask(t, at, "udp", new(dns.Msg).SetQuestion("n.example.", dns.TypeTXT)); r.Rcode != dns.RcodeServerFailure {
			t.Errorf("%v", r)
		}
		if n := mute.asked.Load(); n != 1 {
			t.Errorf("the mute server was asked %d times", n)
		}
	})
}

// TestNumber: the outside does not see the number that the container chose.
func TestNumber(t *testing.T) {
	same := 0
	w := newWorld(t, nil)
	w.reply = func(q *dns.Msg) *dns.Msg {
		if q.Id == 7 {
			same++
		}
		return answering("out", 0)(q)
	}
	at := serve(t, &place{servers: []netip.AddrPort{w.addr}})
	for range 8 {
		q := new(dns.Msg).SetQuestion("www.example.", dns.TypeTXT)
		q.Id = 7
		ask(t, at, "udp", q)
	}
	if same > 2 {
		t.Errorf("%d of 8 questions went out under the container's number", same)
	}
}

func FuzzLifetime(f *testing.F) {
	b, err := answering("x", 60)(new(dns.Msg).SetQuestion("www.example.", dns.TypeTXT)).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, ttls, ok := lifetime(b); ok {
			for _, at := range ttls {
				_ = b[at : at+4]
			}
		}
		q := question(b)
		if q == nil {
			return
		}
		if key, ok := cacheKey("udp", q, b); ok {
			var m Memory
			m.put("s", key, b, time.Now())
			m.get("s", key, b, time.Now())
		}
	})
}

// BenchmarkOwn and BenchmarkCached are questions a second through a socket, 16
// under way at a time.
func BenchmarkOwn(b *testing.B) {
	p := &place{}
	p.dir.Add([]string{"web"}, netip.MustParseAddr("10.0.0.2"))
	rate(b, serve(b, p), "web.", dns.TypeA)
}

func BenchmarkCached(b *testing.B) {
	w := newWorld(b, answering("out", 3600))
	rate(b, serve(b, &place{servers: []netip.AddrPort{w.addr}}), "www.example.", dns.TypeTXT)
}

func BenchmarkForwarded(b *testing.B) {
	w := newWorld(b, answering("out", 0))
	rate(b, serve(b, &place{servers: []netip.AddrPort{w.addr}}), "www.example.", dns.TypeTXT)
}

func rate(b *testing.B, at, name string, kind uint16) {
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("udp", at)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		raw, _ := new(dns.Msg).SetQuestion(name, kind).Pack()
		buf := make([]byte, 4096)
		for pb.Next() {
			c.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := c.Write(raw); err != nil {
				b.Error(err)
				return
			}
			if _, err := c.Read(buf); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "questions/s")
}
