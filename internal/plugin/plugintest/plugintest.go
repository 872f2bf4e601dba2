// Package plugintest owns plugins for tests: a server of the protocol on a
// socket, and a volume driver that keeps its volumes in a directory.
package plugintest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Handler answers one method: it is given the question's body, and what it
// returns is the answer, or {"Err": …}.
type Handler func(body []byte) (any, error)

// Server is a plugin that listens until Close.
type Server struct {
	Implements []string
	Handlers   map[string]Handler

	mu    sync.Mutex
	asked []string
	srv   *http.Server
}

// Listen serves at a socket, which takes the place of one that is there.
func (s *Server) Listen(socket string) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return err
	}
	_ = os.Remove(socket) // else Listen says what is wrong
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	s.srv = &http.Server{Handler: s} //nolint:gosec // a test's own client
	go s.srv.Serve(l)                //nolint:errcheck // it ends with Close
	return nil
}

// Close stops serving; the socket's file is gone then.
func (s *Server) Close() error { return s.srv.Close() }

// Asked lists the methods that were asked, in order.
func (s *Server) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// ServeHTTP answers one question.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method := r.URL.Path[1:]
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	s.mu.Lock()
	s.asked = append(s.asked, method)
	s.mu.Unlock()
	if method == "Plugin.Activate" && s.Handlers[method] == nil {
		json.NewEncoder(w).Encode(map[string]any{"Implements": s.Implements}) //nolint:errcheck // the client has gone
		return
	}
	h := s.Handlers[method]
	if h == nil {
		http.NotFound(w, r)
		return
	}
	out, err := h(body)
	if err != nil {
		out = map[string]string{"Err": err.Error()}
	}
	if out == nil {
		out = struct{}{}
	}
	json.NewEncoder(w).Encode(out) //nolint:errcheck // the client has gone
}

// Volumes is a volume driver: each volume is a directory, which is there for
// others only while somebody has it mounted.
type Volumes struct {
	Dir string

	mu     sync.Mutex
	mounts map[string][]string // by volume, the runs that have it
	opts   map[string]map[string]string
}

// Server makes a plugin of the driver.
func (v *Volumes) Server() *Server {
	v.mounts, v.opts = map[string][]string{}, map[string]map[string]string{}
	return &Server{Implements: []string{"VolumeDriver"}, Handlers: map[string]Handler{
		"VolumeDriver.Create": v.create, "VolumeDriver.Remove": v.remove, "VolumeDriver.Mount": v.mount, "VolumeDriver.Unmount": v.unmount,
		"VolumeDriver.Get": v.get, "VolumeDriver.List": v.list, "VolumeDriver.Path": v.get,
		"VolumeDriver.Capabilities": func([]byte) (any, error) {
			return map[string]any{"Capabilities": map[string]string{"Scope": "global"}}, nil
		},
	}}
}

type question struct {
	Name, ID string
	Opts     map[string]string
}

func (v *Volumes) path(name string) string { return filepath.Join(v.Dir, name) }

func read(body []byte) (q question, err error) {
	err = json.Unmarshal(body, &q)
	return q, err
}

func (v *Volumes) create(body []byte) (any, error) {
	q, err := read(body)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if q.Opts["refuse"] != "" {
		return nil, fmt.Errorf("refused: %s", q.Opts["refuse"])
	}
	v.opts[q.Name] = q.Opts
	return nil, os.MkdirAll(v.path(q.Name), 0o755)
}

func (v *Volumes) remove(body []byte) (any, error) {
	q, err := read(body)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.mounts[q.Name]) > 0 {
		return nil, fmt.Errorf("volume %s is mounted", q.Name)
	}
	return nil, os.RemoveAll(v.path(q.Name))
}

func (v *Volumes) mount(body []byte) (any, error) {
	q, err := read(body)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if slices.Contains(v.mounts[q.Name], q.ID) {
		return nil, fmt.Errorf("%s has %s mounted already", q.ID, q.Name)
	}
	v.mounts[q.Name] = append(v.mounts[q.Name], q.ID)
	return map[string]string{"Mountpoint": v.path(q.Name)}, nil
}

func (v *Volumes) unmount(body []byte) (any, error) {
	q, err := read(body)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	at := slices.Index(v.mounts[q.Name], q.ID)
	if at < 0 {
		return nil, fmt.Errorf("%s has not mounted %s", q.ID, q.Name)
	}
	v.mounts[q.Name] = slices.Delete(v.mounts[q.Name], at, at+1)
	return nil, nil
}

// Mounted is how many runs have a volume.
func (v *Volumes) Mounted(name string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.mounts[name])
}

func (v *Volumes) describe(name string) map[string]any {
	return map[string]any{"Name": name, "Mountpoint": v.path(name), "CreatedAt": "2026-01-02T03:04:05Z", "Status": map[string]any{"options": v.opts[name]}}
}

func (v *Volumes) get(body []byte) (any, error) {
	q, err := read(body)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, err := os.Stat(v.path(q.Name)); err != nil {
		return nil, fmt.Errorf("no such volume")
	}
	return map[string]any{"Volume": v.describe(q.Name), "Mountpoint": v.path(q.Name)}, nil
}

func (v *Volumes) list([]byte) (any, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	entries, err := os.ReadDir(v.Dir)
	list := []map[string]any{}
	for _, e := range entries {
		list = append(list, v.describe(e.Name()))
	}
	return map[string]any{"Volumes": list}, err
}
