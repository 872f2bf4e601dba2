package shell

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/cli/opts"
)

// DefaultHost is where wherryd listens when nothing else is said.
const DefaultHost = "unix:///var/run/wherry.sock"

// DefaultContext is the name of the context made of flags and environment.
const DefaultContext = "default"

// Endpoint is a resolved engine address.
type Endpoint struct {
	Host    string
	Context string // the docker context's name, "default" if none was used
	TLS     bool
	Verify  bool
	CA      string // paths of PEM files, "" when absent
	Cert    string
	Key     string
}

// contextMeta is meta.json of docker's context store:
// contexts/meta/<sha256 of name>/meta.json, TLS files beside it in
// contexts/tls/<sha256>/docker/{ca,cert,key}.pem.
type contextMeta struct {
	Name      string
	Endpoints map[string]struct {
		Host          string
		SkipTLSVerify bool
	}
}

// Endpoint decides which engine is meant, once. First of: -H, -c,
// WHERRY_HOST, DOCKER_HOST, DOCKER_CONTEXT, our own socket if it exists, the
// current docker context, our own socket.
func (s *Shell) Endpoint() (*Endpoint, error) {
	if s.endpoint == nil {
		ep, err := s.resolve()
		if err != nil {
			return nil, err
		}
		s.endpoint = ep
	}
	return s.endpoint, nil
}

func (s *Shell) resolve() (*Endpoint, error) {
	g := &s.Global
	switch {
	case len(g.Hosts) > 1:
		return nil, errors.New("Specify only one -H")
	case len(g.Hosts) == 1:
		return s.direct(g.Hosts[0])
	}
	return s.byContext(s.ContextName())
}

// ContextName is the context that is meant: DefaultContext where flags, the
// environment or our own socket say which engine it is.
func (s *Shell) ContextName() string {
	g := &s.Global
	switch {
	case len(g.Hosts) > 0:
		return DefaultContext
	case g.Context != "":
		return g.Context
	case hostVariable() != "":
		return DefaultContext
	}
	if name := os.Getenv("DOCKER_CONTEXT"); name != "" {
		return name
	}
	if _, err := os.Stat(strings.TrimPrefix(DefaultHost, "unix://")); err == nil {
		return DefaultContext
	}
	return cmp.Or(s.Config().CurrentContext, DefaultContext)
}

// Default is the endpoint of the default context: the environment's.
func (s *Shell) Default() (*Endpoint, error) { return s.byContext(DefaultContext) }

// ContextDir is where docker's contexts are.
func (s *Shell) ContextDir() string { return filepath.Join(s.configDir(), "contexts") }

// HostVariable is the variable of the environment that names an engine, "" for none.
func HostVariable() string {
	for _, name := range []string{"WHERRY_HOST", "DOCKER_HOST"} {
		if os.Getenv(name) != "" {
			return name
		}
	}
	return ""
}

// hostVariable is the engine that the environment names.
func hostVariable() string {
	return cmp.Or(os.Getenv("WHERRY_HOST"), os.Getenv("DOCKER_HOST"))
}

func (s *Shell) direct(host string) (*Endpoint, error) {
	g := &s.Global
	certDir := os.Getenv("DOCKER_CERT_PATH")
	ep := &Endpoint{Context: DefaultContext, TLS: g.TLS || g.TLSVerify, Verify: g.TLSVerify}
	if !ep.TLS && os.Getenv("DOCKER_TLS_VERIFY") != "" {
		ep.TLS, ep.Verify = true, true
	}
	if !ep.TLS && os.Getenv("DOCKER_TLS") != "" {
		ep.TLS = true
	}
	h, err := opts.ParseHost(ep.TLS, host)
	if err != nil {
		return nil, err
	}
	if err := served(h); err != nil {
		return nil, err
	}
	ep.Host = h
	if strings.HasPrefix(h, "ssh://") {
		ep.TLS, ep.Verify = false, false // ssh knows both ends by its own keys
		return ep, nil
	}
	if !ep.TLS || strings.HasPrefix(h, "unix://") {
		ep.TLS = false
		if !g.TLSVerify {
			return ep, nil
		}
		ep.TLS = true // --tlsverify was asked for: its files must at least be readable
	}
	if certDir == "" {
		certDir = s.configDir()
	}
	for _, f := range []struct {
		dst  *string
		flag string
		name string
	}{{&ep.CA, g.TLSCACert, "ca.pem"}, {&ep.Cert, g.TLSCert, "cert.pem"}, {&ep.Key, g.TLSKey, "key.pem"}} {
		*f.dst = f.flag
		if f.flag == "" {
			p := filepath.Join(certDir, f.name)
			if _, err := os.Stat(p); err == nil || f.name == "ca.pem" && ep.Verify {
				*f.dst = p
			}
		}
	}
	return ep, nil
}

// Contexts are the names that --context takes: docker's default one and those
// that the user made. A context that cannot be read is left out.
func (s *Shell) Contexts() []string {
	names := []string{DefaultContext}
	files, _ := filepath.Glob(filepath.Join(s.ContextDir(), "meta", "*", "meta.json"))
	for _, file := range files {
		var meta contextMeta
		if b, err := os.ReadFile(file); err == nil && json.Unmarshal(b, &meta) == nil && meta.Name != "" {
			names = append(names, meta.Name)
		}
	}
	return names
}

func (s *Shell) byContext(name string) (*Endpoint, error) {
	if name == DefaultContext {
		return s.direct(cmp.Or(hostVariable(), DefaultHost)) // docker's default context is its environment
	}
	sum := sha256.Sum256([]byte(name))
	key := hex.EncodeToString(sum[:])
	root := s.ContextDir()
	b, err := os.ReadFile(filepath.Join(root, "meta", key, "meta.json"))
	if err != nil {
		return nil, fmt.Errorf("context %q: context not found: %w", name, err)
	}
	var meta contextMeta
	if err := json.Unmarshal(b, &meta); err != nil {
		return nil, fmt.Errorf("context %q: %w", name, err)
	}
	d, ok := meta.Endpoints["docker"]
	if !ok || d.Host == "" {
		return nil, fmt.Errorf("context %q has no docker endpoint", name)
	}
	h, err := opts.ParseHost(false, d.Host)
	if err != nil {
		return nil, err
	}
	if err := served(h); err != nil {
		return nil, err
	}
	ep := &Endpoint{Host: h, Context: name, Verify: !d.SkipTLSVerify}
	for _, f := range []struct {
		dst  *string
		name string
	}{{&ep.CA, "ca.pem"}, {&ep.Cert, "cert.pem"}, {&ep.Key, "key.pem"}} {
		p := filepath.Join(root, "tls", key, "docker", f.name)
		if _, err := os.Stat(p); err == nil {
			*f.dst, ep.TLS = p, true
		}
	}
	if d.SkipTLSVerify {
		ep.TLS = true
	}
	return ep, nil
}

// served names the transports that exist elsewhere but not here.
func served(host string) error {
	proto, _, _ := strings.Cut(host, "://")
	switch proto {
	case "unix", "tcp", "http", "https", "ssh":
		return nil
	case "fd":
		return fmt.Errorf("%s: fd:// is for the engine's side only", host)
	}
	return fmt.Errorf("%s: hosts by %s:// are not supported yet; use unix://, tcp:// or ssh://", host, proto)
}
