// Package agent owns the HTTP clients that registries are spoken to with: which
// certificates they show and trust, where they may connect and be redirected,
// and how long a silent server holds them up.
package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/transfer/certs"
)

// Host is whom a client is for.
type Host struct {
	Name       string // host[:port]
	Listed     string // the name that its certificates are listed under
	URL        string // what errors about the files below call it
	CA         string // files, or ""
	Cert, Key  string
	SkipVerify bool
}

// Set makes the clients, each once for its certificates. It is safe for use by
// several goroutines.
type Set struct {
	Dirs []string      // with one sub-directory for each host[:port], see certs
	Idle time.Duration // 0 is Idle

	mu sync.Mutex
	m  map[string]made
}

// made is a client, and the state of the certificates that it was made with.
type made struct {
	client *http.Client
	stamp  string
}

// Client returns the client for a host.
func (s *Set) Client(h Host) (*http.Client, error) {
	key := fmt.Sprint(h.Name, "\n", h.SkipVerify, "\n", h.CA, "\n", h.Cert, "\n", h.Key)
	stamp := certs.Stamp(s.Dirs, h.Listed, h.CA, h.Cert, h.Key)
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.m[key]
	if old.client != nil && old.stamp == stamp {
		return old.client, nil
	}
	conf, err := s.tls(h)
	if err != nil {
		return nil, err
	}
	conf.InsecureSkipVerify = h.SkipVerify
	d := &net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}
	d.Control = func(_, address string, c syscall.RawConn) error {
		// What a registry sends us to must not be what only this machine may
		// reach: the metadata service of a cloud answers at a link-local address.
		if linkLocal(address) && !linkLocal(h.Name) {
			return fmt.Errorf("refusing to connect to the link-local address %s", address)
		}
		return untaken(c)
	}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: d.DialContext, TLSClientConfig: conf, TLSHandshakeTimeout: 10 * time.Second,
		ResponseHeaderTimeout: working, MaxIdleConnsPerHost: 16, IdleConnTimeout: 60 * time.Second, ForceAttemptHTTP2: true,
		DisableCompression: true, WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10, MaxResponseHeaderBytes: maxHeader,
	}
	c := &http.Client{Transport: Patient(t, cmp.Or(s.Idle, Idle)), CheckRedirect: Redirect}
	if s.m == nil {
		s.m = map[string]made{}
	}
	s.m[key] = made{c, stamp}
	if old.client != nil {
		old.client.CloseIdleConnections()
	}
	return c, nil
}

// tls reads what the host's settings and the certificate directories say.
func (s *Set) tls(h Host) (*tls.Config, error) {
	conf, err := certs.Load(s.Dirs, h.Listed)
	if err != nil {
		return nil, err
	}
	if h.CA != "" {
		if err := certs.Trust(conf, h.CA); err != nil {
			return nil, fmt.Errorf("mirror %s: %w", h.URL, err)
		}
	}
	if h.Cert != "" {
		if err := certs.Present(conf, h.Cert, h.Key); err != nil {
			return nil, fmt.Errorf("mirror %s: %w", h.URL, err)
		}
	}
	return conf, nil
}

// maxHeader bounds the header of an answer, in bytes.
const maxHeader = 256 << 10

// deaf is how long a server may take nothing of what is sent to it.
var deaf = 60 * time.Second

// untaken has the kernel give up a connection whose other end is deaf, see
// TCP_USER_TIMEOUT in tcp(7).
func untaken(c syscall.RawConn) error {
	var set error
	if err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deaf.Milliseconds()))
	}); err != nil {
		return err
	}
	return os.NewSyscallError("setsockopt", set)
}

// Redirect follows what may be followed, without anything that is secret.
func Redirect(req *http.Request, via []*http.Request) error {
	last := via[len(via)-1]
	switch {
	case len(via) >= 10:
		return errors.New("stopped after 10 redirects")
	case req.URL.Scheme != "http" && req.URL.Scheme != "https":
		return fmt.Errorf("refusing to follow a redirect to %s", req.URL.Redacted())
	case last.URL.Scheme == "https" && req.URL.Scheme == "http":
		return fmt.Errorf("refusing to follow a redirect from https to plain http: %s", Origin(req.URL))
	}
	if !SameOrigin(via[0].URL, req.URL) {
		req.Header.Del("Authorization")
		req.Header.Del("Cookie")
	}
	return nil
}

// SameOrigin tells whether two addresses lead to one server.
func SameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "http" {
		return "80"
	}
	return "443"
}

// Origin is the server of an address, to be shown.
func Origin(u *url.URL) string { return u.Scheme + "://" + u.Host }

func linkLocal(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLinkLocalUnicast()
}

// Insecure are the hosts that may be asked without verified TLS.
type Insecure struct {
	hosts    []string
	networks []netip.Prefix
}

// NewInsecure reads host, host:port or network in CIDR form; loopback is always
// one of them.
func NewInsecure(list []string) Insecure {
	in := Insecure{networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}}
	for _, text := range list {
		if p, err := netip.ParsePrefix(text); err == nil {
			in.networks = append(in.networks, p)
		}
		in.hosts = append(in.hosts, strings.TrimPrefix(strings.TrimPrefix(text, "http://"), "https://"))
	}
	return in
}

// quick bounds how long a name may take to be looked up.
const quick = 3 * time.Second

// Has tells whether host[:port] is one of them.
func (in Insecure) Has(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	for _, one := range in.hosts {
		if strings.EqualFold(one, hostport) || strings.EqualFold(one, host) {
			return true
		}
	}
	if host == "localhost" {
		return true
	}
	var addrs []netip.Addr
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = []netip.Addr{a}
	} else if len(in.networks) > 2 {
		// Only a network in the settings makes a name worth looking up.
		ctx, cancel := context.WithTimeout(context.Background(), quick)
		defer cancel()
		if addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
			return false
		}
	}
	for _, a := range addrs {
		for _, n := range in.networks {
			if n.Contains(a.Unmap()) {
				return true
			}
		}
	}
	return false
}
