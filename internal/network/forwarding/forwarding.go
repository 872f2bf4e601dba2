// Package forwarding owns the host's setting net.ipv4.ip_forward: it remembers,
// for as long as the host runs, what it was before the engine changed it.
package forwarding

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
)

// State is what was changed.
type State struct {
	// Before is what the setting was; "" when it was not changed.
	Before string `json:"Forwarding,omitempty"`

	file string // "" keeps nothing
}

// Path is the setting's place under /proc/sys.
const Path = "net/ipv4/ip_forward"

// Load reads what an earlier engine wrote down; execRoot "" keeps nothing.
func Load(execRoot string) (State, error) {
	var h State
	if execRoot == "" {
		return h, nil
	}
	h.file = filepath.Join(execRoot, "network", "host.json")
	data, err := os.ReadFile(h.file)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return h, err
	}
	if err := json.Unmarshal(data, &h); err != nil {
		return h, fmt.Errorf("%s: %w", h.file, err)
	}
	return h, nil
}

func (h *State) save() error {
	if h.file == "" {
		return nil
	}
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return atomicfile.Write(h.file, data, 0o600, atomicfile.Cached)
}

// Decide reports whether forwarding is to be turned on, as
// containers behind a bridge need it, and writes down first that it was off.
func (h *State) Decide(wanted bool) (bool, error) {
	now, err := rtnl.ReadSysctl(Path)
	if err != nil {
		return false, err
	}
	if now != "0" || !wanted {
		return false, nil
	}
	h.Before = now
	return true, h.save()
}

// Restore takes the change back.
func (h *State) Restore() error {
	if h.Before == "" {
		return nil
	}
	if err := rtnl.WriteSysctl(Path, h.Before); err != nil {
		return fmt.Errorf("restore net.ipv4.ip_forward: %w", err)
	}
	h.Before = ""
	if h.file == "" {
		return nil
	}
	if err := os.Remove(h.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Enable turns forwarding on.
func Enable() error {
	if err := rtnl.WriteSysctl(Path, "1"); err != nil {
		return fmt.Errorf("enable net.ipv4.ip_forward (--ip-forward=false leaves it alone): %w", err)
	}
	return nil
}
