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
}

const ipForward = "net/ipv4/ip_forward"

func hostStateFile(execRoot string) string { return filepath.Join(execRoot, "network", "host.json") }

func loadHostState(execRoot string) (hostState, error) {
	var h hostState
	if execRoot == "" {
		return h, nil
	}
	data, err := os.ReadFile(hostStateFile(execRoot))
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return h, err
	}
	if err := json.Unmarshal(data, &h); err != nil {
		return h, fmt.Errorf("%s: %w", hostStateFile(execRoot), err)
	}
	return h, nil
}

func (m *Manager) saveHostState() error {
	if m.cfg.ExecRoot == "" {
		return nil
	}
	data, err := json.Marshal(m.host)
	if err != nil {
		return err
	}
	return atomicfile.Write(hostStateFile(m.cfg.ExecRoot), data, 0o600, atomicfile.Cached)
}

// decideForwarding reports whether forwarding is to be turned on, as
// containers behind a bridge need it, and writes down first that it was off.
func (m *Manager) decideForwarding() (bool, error) {
	now, err := readSysctl(ipForward)
	if err != nil {
		return false, err
	}
	if now != "0" || !m.cfg.IPForward || m.cfg.BridgeName == "none" {
		return false, nil
	}
	m.host.Forwarding = now
	return true, m.saveHostState()
}

// restoreHost takes the changes of host settings back.
func (m *Manager) restoreHost() error {
	if m.host.Forwarding == "" {
		return nil
	}
	if err := rtnl.WriteSysctl(ipForward, m.host.Forwarding); err != nil {
		return fmt.Errorf("restore net.ipv4.ip_forward: %w", err)
	}
	m.host = hostState{}
	if m.cfg.ExecRoot == "" {
		return nil
	}
	if err := os.Remove(hostStateFile(m.cfg.ExecRoot)); err != nil && !errors.Is(err, fs.ErrNotExist) {
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
