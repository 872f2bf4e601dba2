package remote

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/wherry-engine/wherry/internal/atomicfile"
)

// file is the record of an endpoint.
type file struct {
	Version int
	Endpoint
}

// Note writes down what plugins hold for an endpoint, before they do.
func (d *Drivers) Note(e *Endpoint) error {
	if d.dir == "" {
		return nil
	}
	data, err := json.Marshal(file{1, *e})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	return atomicfile.Write(d.path(e.ID), data, 0o600, atomicfile.Cached)
}

func (d *Drivers) path(id string) string { return filepath.Join(d.dir, id+".json") }

func (d *Drivers) forget(id string) error {
	if d.dir == "" {
		return nil
	}
	err := os.Remove(d.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Held reads the endpoints that plugins hold, by id.
func (d *Drivers) Held() (map[string]*Endpoint, error) {
	out := map[string]*Endpoint{}
	if d.dir == "" {
		return out, nil
	}
	entries, err := os.ReadDir(d.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	for _, at := range entries {
		id, ok := strings.CutSuffix(at.Name(), ".json")
		if !ok {
			continue // of a write that a crash cut off
		}
		data, err := os.ReadFile(d.path(id))
		if err != nil {
			return nil, err
		}
		var f file
		if err := json.Unmarshal(data, &f); err != nil {
			return nil, fmt.Errorf("%s: %w", d.path(id), err)
		}
		if f.Version != 1 || f.ID != id {
			return nil, fmt.Errorf("%s: not a record that this engine knows", d.path(id))
		}
		out[id] = &f.Endpoint
	}
	return out, nil
}
