// Package transfer owns the way images take between this host and registries:
// which hosts stand in for a registry, what each of them may be told, pull,
// push, login and search.
//
// A registry is asked through its endpoints: the mirrors that the settings give
// for it, in order, then the registry itself. Whatever comes from any of them
// is checked by digest. Credentials belong to one endpoint and go nowhere else:
// not to a mirror, not to where a redirect or an upload's Location leads.
//
// What a pull has fetched, whole blobs and parts, is kept under a lease that is
// named for the manifest (content.Resume), so a pull that was cut, cancelled or
// killed goes on where it was.
package transfer

import (
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/transfer/agent"
	"github.com/wherry-engine/wherry/internal/transfer/pack"
	"github.com/wherry-engine/wherry/internal/transfer/turns"
)

// Config is what the settings say of registries. It can be replaced while the
// engine runs.
type Config struct {
	HubMirrors   []string // addresses that stand in for Docker Hub
	Insecure     []string // host, host:port or network in CIDR form
	CertDirs     []string // directories with one sub-directory for each host[:port]
	Mirrors      map[string][]Mirror
	MaxDownloads int // at a time, of all pulls
	MaxUploads   int
	MaxAttempts  int // for one blob, without any progress
	// Compression is what layers that are not compressed become by a push; ""
	// is gzip.
	Compression pack.Form
}

// Mirror stands in for the registry host, "*.domain" or "*" that it is listed
// under.
type Mirror struct {
	URL                string // https://host[:port][/prefix of all repositories]
	Rewrite            []Rewrite
	Username, Password string
	CA, Cert, Key      string // files
	SkipVerify         bool
}

// Rewrite changes a repository's path on a mirror.
type Rewrite struct {
	Match *regexp.Regexp
	To    string
}

// Options are what a Client is made of.
type Options struct {
	Images    *image.Store
	UserAgent string
	Events    func(events.Message) // may be nil
}

// Client speaks with registries. It is safe for use by several goroutines.
type Client struct {
	images image.Exchange
	blobs  *content.Store
	agent  string
	events func(events.Message)
	set    atomic.Pointer[settings]
	packs  turns.Places // a place for each layer that is being compressed

	sending turns.Keyed // by the registry and blob

	mu      sync.Mutex
	flights map[digest.Digest]*flight
}

// settings is a Config with what is made from it.
type settings struct {
	Config
	insecure  agent.Insecure
	agents    agent.Set
	downloads turns.Places
	uploads   turns.Places
}

// New returns a client; it asks nobody anything yet.
func New(o Options, c Config) (*Client, error) {
	cl := &Client{images: image.NewExchange(o.Images), agent: o.UserAgent, events: o.Events, flights: map[digest.Digest]*flight{}, packs: make(turns.Places, maxPacks)}
	if o.Images != nil {
		cl.blobs = o.Images.Content()
	}
	return cl, cl.Configure(c)
}

// Configure replaces the settings; work under way goes on with the old ones.
func (c *Client) Configure(cfg Config) error {
	s := &settings{Config: cfg, insecure: agent.NewInsecure(cfg.Insecure), agents: agent.Set{Dirs: cfg.CertDirs}}
	for _, m := range cfg.HubMirrors {
		if _, err := mirrorURL(m); err != nil {
			return err
		}
	}
	for host, list := range cfg.Mirrors {
		for _, m := range list {
			if _, err := mirrorURL(m.URL); err != nil {
				return fmt.Errorf("mirror of %s: %w", host, err)
			}
		}
	}
	s.downloads = make(turns.Places, orOne(cfg.MaxDownloads, 3))
	s.uploads = make(turns.Places, orOne(cfg.MaxUploads, 5))
	if s.Compression == "" {
		s.Compression = pack.Gzip
	}
	if s.MaxAttempts < 1 {
		s.MaxAttempts = 5
	}
	c.set.Store(s)
	return nil
}

func orOne(n, otherwise int) int {
	if n < 1 {
		return otherwise
	}
	return n
}

func mirrorURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("invalid mirror: %q is not a valid URI: %w", text, err)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("invalid mirror: unsupported scheme %q in %q: must use either 'https://' or 'http://'", u.Scheme, text)
	case u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("invalid mirror: query or fragment, or no host, in %q", text)
	case u.User != nil:
		return nil, fmt.Errorf("invalid mirror: credentials in the address of %q", u.Redacted())
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

// skipped tells the log and the events that a mirror was of no use.
func (c *Client) skipped(e *endpoint, ref string, err error) {
	slog.Debug("mirror skipped", "mirror", e.base.String(), "image", ref, "error", err)
	if c.events == nil {
		return
	}
	now := time.Now()
	c.events(events.Message{Type: events.DaemonEventType, Action: "mirror_skipped", Scope: "local", Time: now.Unix(), TimeNano: now.UnixNano(),
		Actor: events.Actor{ID: e.base.Host, Attributes: map[string]string{"mirror": e.base.String(), "image": ref, "reason": err.Error()}}})
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

func notFound(format string, args ...any) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf(format, args...))
}

// quick bounds how long a registry may take to say anything where the engine
// can do without it.
const quick = 3 * time.Second
