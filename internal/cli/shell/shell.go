// Package shell owns what every verb of the command line works with: the
// standard streams, the user's client configuration, the resolved engine
// endpoint with its API client, and the rules by which an error becomes a
// message and an exit code.
package shell

import (
	"fmt"
	"io"
	"os"

	"github.com/moby/moby/client"
)

// Build says what this binary is; empty fields are shown as unknown.
type Build struct {
	Version string
	Commit  string
	Time    string
}

// Global holds the flags that stand before the verb.
type Global struct {
	Hosts     []string
	Context   string
	ConfigDir string
	Debug     bool
	LogLevel  string
	TLS       bool
	TLSVerify bool
	TLSCACert string
	TLSCert   string
	TLSKey    string
}

// Shell is handed to every verb. It is used by one goroutine until the verb
// runs; the API client in it may be used by several.
type Shell struct {
	Name   string // the program as the user called it: wherry or docker
	Build  Build
	In     *In
	Out    *Out
	Err    *Out
	Global Global

	// APIVersion overrides the newest version this client speaks; set after an
	// engine said that it is too new.
	APIVersion string

	// Client, when set, is used instead of connecting; tests put a fake here.
	Client client.APIClient

	config   *Config
	endpoint *Endpoint
}

// New returns a shell on the process's own streams.
func New(name string, b Build) *Shell {
	return &Shell{Name: name, Build: b, In: NewIn(os.Stdin), Out: NewOut(os.Stdout), Err: NewOut(os.Stderr)}
}

// API returns the engine's client, connecting lazily: no byte is sent before
// the first request.
func (s *Shell) API() (client.APIClient, error) {
	if s.Client != nil {
		return s.Client, nil
	}
	ep, err := s.Endpoint()
	if err != nil {
		return nil, fmt.Errorf("Failed to initialize: unable to resolve docker endpoint: %w", err)
	}
	c, err := s.connect(ep)
	if err != nil {
		return nil, fmt.Errorf("Failed to initialize: unable to resolve docker endpoint: %w", err)
	}
	s.Client = c
	return c, nil
}

// Config returns the user's client configuration, read once. A file that
// cannot be read is warned about and then treated as empty, as docker does.
func (s *Shell) Config() *Config {
	if s.config == nil {
		c, err := loadConfig(s.configDir())
		if err != nil {
			fmt.Fprintln(s.Err, "WARNING: Error loading config file:", err)
		}
		s.config = c
	}
	return s.config
}

// Debugf writes a line to stderr when -D was given.
func (s *Shell) Debugf(format string, args ...any) {
	if s.Global.Debug {
		fmt.Fprintf(s.Err, "DEBUG: "+format+"\n", args...)
	}
}

// Warn writes the engine's warnings as docker shows them.
func (s *Shell) Warn(warnings []string) {
	for _, w := range warnings {
		fmt.Fprintln(s.Err, "WARNING:", w)
	}
}

// Println writes one line to stdout.
func (s *Shell) Println(a ...any) { fmt.Fprintln(s.Out, a...) }

var _ io.Writer = (*Out)(nil)
