package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
)

// hostState remembers host settings as they were before the engine changed
// them. An empty field was not changed.
type hostState struct {
	Forwarding string `json:",omitempty"` // net.ipv4.ip_forward

	file string // "" keeps nothing
}

const ipForward = "net/ipv4/ip_forward"

func loadHostState(execRoot string) (hostState, error) {
	var h hostState
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

func (h *hostState) save() error {
	if h.file == "" {
		return nil
	}
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return atomicfile.Write(h.file, data, 0o600, atomicfile.Cached)
}

// decide reports whether forwarding is to be turned on, as
// containers behind a bridge need it, and writes down first that it was off.
func (h *hostState) decide(cfg *Config) (bool, error) {
	now, err := readSysctl(ipForward)
	if err != nil {
		return false, err
	}
	if now != "0" || !cfg.IPForward || cfg.BridgeName == "none" {
		return false, nil
	}
	h.Forwarding = now
	return true, h.save()
}

// restore takes the changes of host settings back.
func (h *hostState) restore() error {
	if h.Forwarding == "" {
		return nil
	}
	if err := rtnl.WriteSysctl(ipForward, h.Forwarding); err != nil {
		return fmt.Errorf("restore net.ipv4.ip_forward: %w", err)
	}
	h.Forwarding = ""
	if h.file == "" {
		return nil
	}
	if err := os.Remove(h.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func readSysctl(path string) (string, error) {
	data, err := os.ReadFile("/proc/sys/" + path)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(data)), nil
}
