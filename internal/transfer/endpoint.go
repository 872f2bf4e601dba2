package transfer

import (
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
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/transfer/certs"
)

// Docker Hub under the names by which it is known.
const (
	hub         = "docker.io"
	hubRegistry = "registry-1.docker.io"
	hubIndex    = "index.docker.io"
)

// endpoint is one address at which a registry, or a mirror of it, is asked.
type endpoint struct {
	base    *url.URL // scheme, host, prefix without final slash
	host    string   // the registry that it stands for
	mirror  bool
	rewrite []Rewrite
	creds   credentials
	client  *http.Client
	// fallback is the same registry by plain http, where that is allowed; it is
	// asked if this endpoint turns out not to speak TLS, or not at all.
	fallback bool
}

// repository returns what the repository is called there.
func (e *endpoint) repository(path string) string {
	for _, r := range e.rewrite {
		if r.Match.MatchString(path) {
			return r.Match.ReplaceAllString(path, r.To)
		}
	}
	return path
}

// owns tells whether u leads to the endpoint's own server: only there do its
// credentials go.
func (e *endpoint) owns(u *url.URL) bool { return sameOrigin(e.base, u) }

func sameOrigin(a, b *url.URL) bool {
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

// endpoints lists where to ask for a registry host, in order. creds are the
// client's, for the registry itself.
func (s *settings) endpoints(host string, creds credentials, mirrors bool) ([]*endpoint, error) {
	var list []*endpoint
	if mirrors {
		for _, m := range s.mirrorsOf(host) {
			u, err := mirrorURL(m.URL)
			if err != nil {
				return nil, err
			}
			found, err := s.at(u, m, u.Scheme == "https" && s.insecure(u.Host))
			if err != nil {
				return nil, err
			}
			for _, e := range found {
				e.mirror, e.host, e.rewrite = true, host, m.Rewrite
				e.creds = credentials{user: m.Username, password: m.Password}
			}
			list = append(list, found...)
		}
	}
	u := &url.URL{Scheme: "https", Host: host}
	if host == hub {
		u.Host = hubRegistry
	}
	own, err := s.at(u, Mirror{}, s.insecure(u.Host))
	if err != nil {
		return nil, err
	}
	for _, e := range own {
		e.host, e.creds = host, creds
	}
	return append(list, own...), nil
}

// at returns the endpoints for one address: for an insecure one https without
// verification and then http, or the one of them that worked before.
func (s *settings) at(u *url.URL, m Mirror, insecure bool) ([]*endpoint, error) {
	if u.Scheme == "http" {
		c, err := s.agent(u.Host, m, false)
		return []*endpoint{{base: u, client: c}}, err
	}
	c, err := s.agent(u.Host, m, insecure)
	if err != nil {
		return nil, err
	}
	secure := &endpoint{base: u, client: c}
	if !insecure {
		return []*endpoint{secure}, nil
	}
	bare := *u
	bare.Scheme = "http"
	open := &endpoint{base: &bare, client: c}
	s.mu.Lock()
	known := s.plain[u.Host]
	s.mu.Unlock()
	if known {
		return []*endpoint{open}, nil
	}
	secure.fallback = true
	return []*endpoint{secure, open}, nil
}

// spoke remembers that a host answered by plain http.
func (s *settings) spoke(e *endpoint) {
	if e.base.Scheme == "http" && !e.mirror {
		s.mu.Lock()
		s.plain[e.base.Host] = true
		s.mu.Unlock()
	}
}

// mirrorsOf finds the mirrors of a host: its own, else those of the longest
// wildcard that covers it; Docker Hub's old setting comes after.
func (s *settings) mirrorsOf(host string) []Mirror {
	list, ok := s.Mirrors[host]
	if !ok {
		best := ""
		for pattern := range s.Mirrors {
			suffix, wild := strings.CutPrefix(pattern, "*")
			if wild && strings.HasSuffix(host, suffix) && len(pattern) > len(best) {
				best = pattern
			}
		}
		list = s.Mirrors[best]
	}
	if host == hub {
		for _, m := range s.HubMirrors {
			list = append(list[:len(list):len(list)], Mirror{URL: m})
		}
	}
	return list
}

type cidr = netip.Prefix

// insecureNetworks reads the CIDR entries; loopback is always one of them.
func insecureNetworks(list []string) []cidr {
	out := []cidr{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for _, text := range list {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// insecure tells whether the settings allow host[:port] to be asked without
// verified TLS.
func (s *settings) insecure(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	for _, one := range s.Insecure {
		one = strings.TrimPrefix(strings.TrimPrefix(one, "http://"), "https://")
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
	} else if len(s.networks) > 2 {
		// Only a network in the settings makes a name worth looking up.
		ctx, cancel := context.WithTimeout(context.Background(), quick)
		defer cancel()
		if addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
			return false
		}
	}
	for _, a := range addrs {
		for _, n := range s.networks {
			if n.Contains(a.Unmap()) {
				return true
			}
		}
	}
	return false
}

// agent is an HTTP client, and the state of the certificates that it was made with.
type agent struct {
	client *http.Client
	stamp  string
}

// agent returns the HTTP client for a host, made once for its certificates.
func (s *settings) agent(host string, m Mirror, skipVerify bool) (*http.Client, error) {
	skipVerify = skipVerify || m.SkipVerify
	key := fmt.Sprint(host, "\n", skipVerify, "\n", m.CA, "\n", m.Cert, "\n", m.Key)
	stamp := certs.Stamp(s.CertDirs, registryOf(host), m.CA, m.Cert, m.Key)
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.agents[key]
	if old.client != nil && old.stamp == stamp {
		return old.client, nil
	}
	conf, err := s.tls(host, m)
	if err != nil {
		return nil, err
	}
	conf.InsecureSkipVerify = skipVerify
	d := &net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}
	d.Control = func(_, address string, c syscall.RawConn) error {
		// What a registry sends us to must not be what only this machine may
		// reach: the metadata service of a cloud answers at a link-local address.
		if linkLocal(address) && !linkLocal(host) {
			return fmt.Errorf("refusing to connect to the link-local address %s", address)
		}
		return untaken(c)
	}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: d.DialContext, TLSClientConfig: conf, TLSHandshakeTimeout: 10 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second, MaxIdleConnsPerHost: 16, IdleConnTimeout: 60 * time.Second, ForceAttemptHTTP2: true,
		DisableCompression: true, WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10,
	}
	c := &http.Client{Transport: t, CheckRedirect: redirect}
	s.agents[key] = agent{c, stamp}
	if old.client != nil {
		old.client.CloseIdleConnections()
	}
	return c, nil
}

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

// redirect follows what may be followed, without anything that is secret.
func redirect(req *http.Request, via []*http.Request) error {
	last := via[len(via)-1]
	switch {
	case len(via) >= 10:
		return errors.New("stopped after 10 redirects")
	case req.URL.Scheme != "http" && req.URL.Scheme != "https":
		return fmt.Errorf("refusing to follow a redirect to %s", req.URL.Redacted())
	case last.URL.Scheme == "https" && req.URL.Scheme == "http":
		return fmt.Errorf("refusing to follow a redirect from https to plain http: %s", origin(req.URL))
	}
	if !sameOrigin(via[0].URL, req.URL) {
		req.Header.Del("Authorization")
		req.Header.Del("Cookie")
	}
	return nil
}

func origin(u *url.URL) string { return u.Scheme + "://" + u.Host }

func linkLocal(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLinkLocalUnicast()
}

// registryOf is the name that a host's certificates are listed under.
func registryOf(host string) string {
	if host == hubRegistry {
		return hub
	}
	return host
}

// tls reads what a mirror's settings and the certificate directories say.
func (s *settings) tls(host string, m Mirror) (*tls.Config, error) {
	conf, err := certs.Load(s.CertDirs, registryOf(host))
	if err != nil {
		return nil, err
	}
	if m.CA != "" {
		if err := certs.Trust(conf, m.CA); err != nil {
			return nil, fmt.Errorf("mirror %s: %w", m.URL, err)
		}
	}
	if m.Cert != "" {
		if err := certs.Present(conf, m.Cert, m.Key); err != nil {
			return nil, fmt.Errorf("mirror %s: %w", m.URL, err)
		}
	}
	return conf, nil
}
