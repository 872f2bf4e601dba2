// Package plugin owns Docker's plugin protocol: programs that answer JSON over
// HTTP on a socket, found by a file in one of a few directories. It knows how
// to find them, what they say they implement, and how to ask; what the
// questions mean is their drivers' business.
//
// A plugin is trusted with what it is asked for, but not with the engine: it
// may be down, slow or say anything.
package plugin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// accept is the version of the protocol.
	accept = "application/vnd.docker.plugins.v1.2+json"
	// maxAnswer bounds an answer, in bytes.
	maxAnswer = 4 << 20
	// dialTimeout bounds connecting once.
	dialTimeout = 5 * time.Second
	// Patience is how long a plugin that is known but not there is waited for,
	// as it may be starting beside the engine.
	Patience = 3 * time.Second
	// mute is how long one that was not there is not waited for again.
	mute = 30 * time.Second
)

// Plugin is one that has said what it implements.
type Plugin struct {
	Name       string
	Implements []string
	file       stamp
	at         address
	client     *http.Client
	missed     *atomic.Int64 // when it was waited for in vain, in Unix nanoseconds
}

// Set knows the plugins below some directories. It is safe for concurrent use.
type Set struct {
	sockets []string // directories with name.sock and name/name.sock
	specs   []string // directories with name.spec and name.json

	mu     sync.Mutex
	active map[string]*Plugin
	missed map[stamp]*atomic.Int64 // see Plugin
}

// Dirs are docker's directories and, before them, one of the engine's own.
func Dirs(own string) (sockets, specs []string) {
	return []string{own, "/run/docker/plugins"}, []string{own, "/etc/docker/plugins", "/usr/lib/docker/plugins"}
}

// New makes a set of what is below the directories, now and later.
func New(sockets, specs []string) *Set {
	return &Set{sockets: sockets, specs: specs, active: map[string]*Plugin{}, missed: map[stamp]*atomic.Int64{}}
}

// Get finds a plugin that implements what is wanted and asks it what it
// implements unless that is known. errdefs.ErrNotFound when there is no such.
func (s *Set) Get(ctx context.Context, name, wanted string) (*Plugin, error) {
	if !validName(name) {
		return nil, notFound(name)
	}
	at, file, err := s.find(name)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	p := s.active[name]
	missed := s.missed[file]
	if missed == nil {
		if len(s.missed) > 1000 {
			clear(s.missed) // plugins that come and go
		}
		missed = new(atomic.Int64)
		s.missed[file] = missed
	}
	s.mu.Unlock()
	if p == nil || p.file != file {
		if p, err = activate(ctx, name, at, file, missed); err != nil {
			return nil, err
		}
		s.mu.Lock()
		if old := s.active[name]; old != nil {
			old.client.CloseIdleConnections()
		}
		s.active[name] = p
		s.mu.Unlock()
	}
	if !slices.Contains(p.Implements, wanted) {
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("plugin %s does not implement %s (it implements %s)", name, wanted, strings.Join(p.Implements, ", ")))
	}
	return p, nil
}

// validName keeps a name from leading out of the directories.
func validName(name string) bool {
	return name != "" && name[0] != '.' && len(name) < 200 && !strings.ContainsAny(name, "/\x00")
}

func notFound(name string) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("plugin %q not found", name))
}

// Known lists the plugins that have been used and implement something.
func (s *Set) Known(wanted string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for name, p := range s.active {
		if slices.Contains(p.Implements, wanted) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Names lists the plugins that there are, whatever they implement.
func (s *Set) Names() []string {
	var out []string
	for _, dir := range slices.Concat(s.sockets, s.specs) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			name := e.Name()
			if ext := filepath.Ext(name); ext == ".sock" || ext == ".spec" || ext == ".json" {
				name = strings.TrimSuffix(name, ext)
			}
			if validName(name) && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return out
}

// activate asks a plugin what it implements.
func activate(ctx context.Context, name string, at address, file stamp, missed *atomic.Int64) (*Plugin, error) {
	t, err := at.transport()
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w", name, err)
	}
	p := &Plugin{Name: name, file: file, at: at, missed: missed, client: &http.Client{
		Transport: t,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("it answers with a redirect")
		},
	}}
	var out struct{ Implements []string }
	if err := p.Call(ctx, "Plugin.Activate", nil, &out); err != nil {
		p.client.CloseIdleConnections()
		return nil, err
	}
	if len(out.Implements) == 0 {
		p.client.CloseIdleConnections()
		return nil, fmt.Errorf("plugin %s: Plugin.Activate: it says that it implements nothing", name)
	}
	p.Implements = out.Implements
	return p, nil
}

// Call asks the plugin. What its answer holds in Err is an error that says so
// in the plugin's words.
func (p *Plugin) Call(ctx context.Context, method string, in, out any) error {
	body := []byte("{}")
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	answer, err := p.ask(ctx, method, body)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, cause)) {
			return fmt.Errorf("plugin %s: %s: it does not answer: %w", p.Name, method, cause)
		}
		return fmt.Errorf("plugin %s: %s: %w", p.Name, method, err)
	}
	var failed failure
	if err := json.Unmarshal(answer, &failed); err != nil {
		return fmt.Errorf("plugin %s: %s: its answer is no JSON: %w", p.Name, method, err)
	}
	if text := failed.text(); text != "" {
		return &Error{p.Name, method, text}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("plugin %s: %s: its answer is not what the protocol says: %w", p.Name, method, err)
	}
	return nil
}

// ask sends a question, for a while again when nobody is there.
func (p *Plugin) ask(ctx context.Context, method string, body []byte) ([]byte, error) {
	wait := Patience
	if time.Since(time.Unix(0, p.missed.Load())) < mute {
		wait = 0
	}
	patience, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause *= 2 {
		answer, err := p.once(ctx, method, body)
		var op *net.OpError
		if err == nil || !errors.As(err, &op) || op.Op != "dial" || !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, os.ErrNotExist) {
			return answer, err
		}
		select {
		case <-time.After(pause):
		case <-patience.Done():
			p.missed.Store(time.Now().UnixNano())
			return nil, fmt.Errorf("nobody listens: %w", err)
		}
	}
}

func (p *Plugin) once(ctx context.Context, method string, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.at.base()+"/"+method, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", accept)
	r.Header.Set("Content-Type", accept)
	resp, err := p.client.Do(r)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the address is no news
		}
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, err
	case len(answer) > maxAnswer:
		return nil, fmt.Errorf("its answer is larger than %d bytes", maxAnswer)
	case resp.StatusCode == http.StatusOK:
		return answer, nil
	}
	// Some say it in JSON, some in plain words.
	var failed failure
	if json.Unmarshal(answer, &failed) == nil && failed.text() != "" {
		return answer, nil
	}
	if resp.StatusCode == http.StatusNotFound {
		return nil, errdefs.ErrNotImplemented.WithMessage("it does not know the method")
	}
	return nil, fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(answer[:min(len(answer), 1024)])))
}

// failure is how an answer says that something has failed: drivers of addresses
// call it Error, all others Err.
type failure struct{ Err, Error string }

func (f failure) text() string { return cmp.Or(f.Err, f.Error) }

// Error is what a plugin says of a failure.
type Error struct{ Plugin, Method, Text string }

func (e *Error) Error() string { return e.Method + ": " + e.Text }
