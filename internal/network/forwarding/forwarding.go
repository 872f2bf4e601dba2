// Package forwarding owns the host's settings that make it forward packets: it
// remembers, for as long as the host runs, what they were before the engine
// changed them.
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
	// Before and Before6 are what the settings of IPv4 and IPv6 were; "" when
	// they were not changed.
	Before  string `json:"Forwarding,omitempty"`
	Before6 string `json:"Forwarding6,omitempty"`
	// Listeners are the links that took the routes of routers (accept_ra=1),
	// which a host that forwards does not do unless told so.
	Listeners []string `json:",omitempty"`

	enable, enable6 bool
	file            string // "" keeps nothing
}

// The settings' places under /proc/sys.
const (
	Path  = "net/ipv4/ip_forward"
	Path6 = "net/ipv6/conf/all/forwarding"
)

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

// Decide determines what Enable has to turn on, as containers behind a bridge
// need it, and writes down first that it was off.
func (h *State) Decide(wanted, wanted6 bool) error {
	changed := false
	for _, f := range []struct {
		path   string
		wanted bool
		before *string
		enable *bool
	}{{Path, wanted, &h.Before, &h.enable}, {Path6, wanted6, &h.Before6, &h.enable6}} {
		if !f.wanted {
			continue
		}
		now, err := rtnl.ReadSysctl(f.path)
		if f.path == Path6 && errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6 in this kernel
		}
		if err != nil {
			return err
		}
		if now == "0" {
			*f.before, *f.enable, changed = now, true, true
		}
	}
	if h.enable6 {
		links, err := os.ReadDir("/proc/sys/net/ipv6/conf")
		if err != nil {
			return err
		}
		for _, l := range links {
			if now, err := rtnl.ReadSysctl(acceptRA(l.Name())); err == nil && now == "1" && l.Name() != "all" && l.Name() != "lo" {
				h.Listeners = append(h.Listeners, l.Name())
			}
		}
	}
	if !changed {
		return nil
	}
	return h.save()
}

func acceptRA(link string) string { return "net/ipv6/conf/" + link + "/accept_ra" }

// Enable turns on what Decide found to be off.
func (h *State) Enable() error {
	if h.enable {
		if err := rtnl.WriteSysctl(Path, "1"); err != nil {
			return fmt.Errorf("enable net.ipv4.ip_forward (--ip-forward=false leaves it alone): %w", err)
		}
	}
	if h.enable6 {
		// The host goes on taking its own routes from its routers.
		for _, l := range h.Listeners {
			if err := rtnl.WriteSysctl(acceptRA(l), "2"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("keep accepting routes on %s: %w", l, err)
			}
		}
		if err := rtnl.WriteSysctl(Path6, "1"); err != nil {
			return fmt.Errorf("enable net.ipv6.conf.all.forwarding (--ip-forward=false leaves it alone): %w", err)
		}
	}
	h.enable, h.enable6 = false, false
	return nil
}

// Restore takes the changes back.
func (h *State) Restore() error {
	if h.Before == "" && h.Before6 == "" {
		return nil
	}
	for path, before := range map[string]*string{Path: &h.Before, Path6: &h.Before6} {
		if *before == "" {
			continue
		}
		if err := rtnl.WriteSysctl(path, *before); err != nil {
			return fmt.Errorf("restore %s: %w", path, err)
		}
		*before = ""
	}
	for _, l := range h.Listeners {
		if err := rtnl.WriteSysctl(acceptRA(l), "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("restore accept_ra of %s: %w", l, err)
		}
	}
	h.Listeners = nil
	if h.file == "" {
		return nil
	}
	if err := os.Remove(h.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
