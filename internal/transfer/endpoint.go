package transfer

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/wherry-engine/wherry/internal/transfer/agent"
	"github.com/wherry-engine/wherry/internal/transfer/login"
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
	creds   login.Credentials
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
func (e *endpoint) owns(u *url.URL) bool { return agent.SameOrigin(e.base, u) }

// login is who we are there.
func (e *endpoint) login(agent string, scopes ...string) *login.Login {
	return login.New(login.Server{Base: e.base, Credentials: e.creds, Client: e.client, UserAgent: agent}, scopes...)
}

// endpoints lists where to ask for a registry host, in order. creds are the
// client's, for the registry itself.
func (s *settings) endpoints(host string, creds login.Credentials, mirrors bool) ([]*endpoint, error) {
	var list []*endpoint
	if mirrors {
		for _, m := range s.mirrorsOf(host) {
			u, err := mirrorURL(m.URL)
			if err != nil {
				return nil, err
			}
			found, err := s.at(u, m, u.Scheme == "https" && s.insecure.Has(u.Host))
			if err != nil {
				return nil, err
			}
			for _, e := range found {
				e.mirror, e.host, e.rewrite = true, host, m.Rewrite
				e.creds = login.Credentials{User: m.Username, Password: m.Password}
			}
			list = append(list, found...)
		}
	}
	u := &url.URL{Scheme: "https", Host: host}
	if host == hub {
		u.Host = hubRegistry
	}
	own, err := s.at(u, Mirror{}, s.insecure.Has(u.Host))
	if err != nil {
		return nil, err
	}
	for _, e := range own {
		e.host, e.creds = host, creds
	}
	return append(list, own...), nil
}

// at returns the endpoints for one address: for an insecure one https without
// verification and then http. Which of them it speaks may change.
func (s *settings) at(u *url.URL, m Mirror, insecure bool) ([]*endpoint, error) {
	if u.Scheme == "http" {
		c, err := s.client(u.Host, m, false)
		return []*endpoint{{base: u, client: c}}, err
	}
	c, err := s.client(u.Host, m, insecure)
	if err != nil {
		return nil, err
	}
	secure := &endpoint{base: u, client: c}
	if !insecure {
		return []*endpoint{secure}, nil
	}
	bare := *u
	bare.Scheme = "http"
	secure.fallback = true
	return []*endpoint{secure, {base: &bare, client: c}}, nil
}

// client returns the HTTP client for a host.
func (s *settings) client(host string, m Mirror, skipVerify bool) (*http.Client, error) {
	return s.agents.Client(agent.Host{Name: host, Listed: registryOf(host), URL: m.URL, CA: m.CA, Cert: m.Cert, Key: m.Key, SkipVerify: skipVerify || m.SkipVerify})
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

// registryOf is the name that a host's certificates are listed under.
func registryOf(host string) string {
	if host == hubRegistry {
		return hub
	}
	return host
}
