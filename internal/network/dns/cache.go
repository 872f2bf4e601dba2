package dns

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	maxCached     = 4096               // answers
	maxCachedSize = 4 << 10            // bytes of one answer
	maxCachedFor  = time.Hour          // whatever its TTL says
	maxDenialFor  = 5 * time.Minute    // "there is no such name"
	resting       = 30 * time.Second   // how long a server that did not answer is asked last
	firstRecord   = 12                 // the header's length
	recordFixed   = 2 + 2 + 4 + 2      // type, class, TTL, length
	flagBits      = 1<<8 | 1<<5 | 1<<4 // RD, AD, CD: what a question asks for
)

// Memory is what is remembered of servers, for all who ask the same ones:
// their answers as long as these hold, and who did not answer. The zero value
// is empty.
type Memory struct {
	mu   sync.Mutex
	m    map[string]cached
	from string                       // the servers that all of m comes from
	mute map[netip.AddrPort]time.Time // until when those that did not answer rest
}

type cached struct {
	raw         []byte
	ttls        []int // where the TTLs are in raw
	since, till time.Time
}

// cacheKey is the same for questions that have the same answer; ok is false
// for those whose answer is for one asker only.
func cacheKey(network string, q *dns.Msg, raw []byte) (key string, ok bool) {
	end, ok := skipName(raw, firstRecord)
	if !ok || len(raw) < end+4 || len(q.Answer)+len(q.Ns) > 0 {
		return "", false
	}
	b := make([]byte, 0, 64)
	for _, c := range raw[firstRecord:end] {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	b = append(b, raw[end:end+4]...)
	b = binary.BigEndian.AppendUint16(b, binary.BigEndian.Uint16(raw[2:])&flagBits)
	b = append(b, network...)
	switch opt := q.IsEdns0(); {
	case len(q.Extra) > 1 || len(q.Extra) == 1 && opt == nil:
		return "", false // signed, or something new
	case opt == nil:
	case len(opt.Option) > 0 || opt.Version() != 0:
		return "", false
	default:
		b = binary.BigEndian.AppendUint16(b, opt.UDPSize())
		if opt.Do() {
			b = append(b, 1)
		}
	}
	return string(b), true
}

// get gives the answer to the question in raw, nil for none; from names the servers.
func (c *Memory) get(from, key string, raw []byte, now time.Time) []byte {
	c.mu.Lock()
	e, ok := c.m[key]
	ok = ok && c.from == from
	c.mu.Unlock()
	if !ok || !now.Before(e.till) {
		return nil
	}
	end, _ := skipName(raw, firstRecord)
	out := append([]byte(nil), e.raw...)
	copy(out, raw[:2])                               // the asker's number
	copy(out[firstRecord:end], raw[firstRecord:end]) // and its spelling
	age := uint32(now.Sub(e.since) / time.Second)
	for _, at := range e.ttls {
		ttl := binary.BigEndian.Uint32(out[at:])
		binary.BigEndian.PutUint32(out[at:], ttl-min(ttl, age))
	}
	return out
}

// put keeps an answer if it may be kept.
func (c *Memory) put(from, key string, answer []byte, now time.Time) {
	whole, ttls, ok := lifetime(answer)
	if !ok || len(answer) > maxCachedSize {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || c.from != from {
		c.m, c.from = map[string]cached{}, from
	}
	for k, e := range c.m { // in no order: some of what is over, else any
		if len(c.m) < maxCached && now.Before(e.till) {
			break
		}
		delete(c.m, k)
	}
	c.m[key] = cached{append([]byte(nil), answer...), ttls, now, now.Add(whole)}
}

// lifetime says how long an answer holds and where its TTLs are.
func lifetime(b []byte) (d time.Duration, ttls []int, ok bool) {
	m := new(dns.Msg)
	if len(b) < firstRecord || m.Unpack(b) != nil || m.Truncated || len(m.Question) != 1 {
		return 0, nil, false
	}
	switch {
	case m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0:
		d = maxCachedFor
		for _, rr := range m.Answer {
			d = min(d, time.Duration(rr.Header().Ttl)*time.Second)
		}
	case m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError:
		for _, rr := range m.Ns {
			if soa, is := rr.(*dns.SOA); is {
				d = min(maxDenialFor, time.Duration(min(soa.Minttl, soa.Hdr.Ttl))*time.Second)
			}
		}
	}
	if d == 0 {
		return 0, nil, false
	}
	at, _ := skipName(b, firstRecord) // it was parsed
	at += 4
	for range len(m.Answer) + len(m.Ns) + len(m.Extra) {
		var fine bool
		if at, fine = skipName(b, at); !fine || len(b) < at+recordFixed {
			return 0, nil, false
		}
		if binary.BigEndian.Uint16(b[at:]) != dns.TypeOPT { // its TTL is something else
			ttls = append(ttls, at+4)
		}
		at += recordFixed + int(binary.BigEndian.Uint16(b[at+8:]))
	}
	return d, ttls, at == len(b)
}

// skipName returns where the name at a place in a message ends.
func skipName(b []byte, at int) (int, bool) {
	for at < len(b) {
		switch n := int(b[at]); {
		case n == 0:
			return at + 1, true
		case n >= 0xc0:
			return at + 2, at+2 <= len(b)
		case n > 63:
			return 0, false
		default:
			at += 1 + n
		}
	}
	return 0, false
}

// order puts servers that rest behind the others.
func (c *Memory) order(list []Upstream, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.mute) == 0 {
		return
	}
	slices.SortStableFunc(list, func(a, b Upstream) int {
		return c.mute[a.Addr].Compare(now) - c.mute[b.Addr].Compare(now)
	})
}

// answered notes whether a server has.
func (c *Memory) answered(server netip.AddrPort, did bool, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case did:
		delete(c.mute, server)
	case c.mute == nil || len(c.mute) > 64:
		c.mute = map[netip.AddrPort]time.Time{server: now.Add(resting)}
	default:
		c.mute[server] = now.Add(resting)
	}
}
