package runopts

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/docker/cli/opts"
	"github.com/docker/go-connections/nat"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

func validAttach(v string) (string, error) {
	switch s := strings.ToLower(v); s {
	case "stdin", "stdout", "stderr":
		return s, nil
	}
	return v, errors.New("valid streams are STDIN, STDOUT and STDERR")
}

func validDeviceRule(v string) (string, error) {
	re := regexp.MustCompile(`^[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}$`)
	if !re.MatchString(v) {
		return v, fmt.Errorf("invalid device cgroup format '%s'", v)
	}
	return v, nil
}

// splitVolumes tells binds (host paths and named volumes) from anonymous
// volumes. A relative host path counts from the working directory.
func splitVolumes(specs []string) ([]string, map[string]struct{}, error) {
	var binds []string
	anonymous := map[string]struct{}{}
	seen := map[string]bool{}
	for _, spec := range specs {
		if seen[spec] {
			continue
		}
		seen[spec] = true
		source, err := volumeSource(spec)
		if err != nil {
			return nil, nil, err
		}
		if source == "" {
			anonymous[spec] = struct{}{}
			continue
		}
		if strings.HasPrefix(source, ".") {
			if hostPart, rest, ok := strings.Cut(spec, ":"); ok {
				if abs, err := filepath.Abs(hostPart); err == nil {
					spec = abs + ":" + rest
				}
			}
		}
		binds = append(binds, spec)
	}
	return binds, anonymous, nil
}

// volumeSource returns the part of a -v value before the first colon that
// separates; "" for an anonymous volume. A single letter before a colon is a
// Windows drive, as docker reads it.
func volumeSource(spec string) (string, error) {
	switch {
	case spec == "":
		return "", errors.New("invalid empty volume spec")
	case len(spec) <= 2:
		return "", nil
	}
	var parts []string
	start := 0
	for i, r := range spec {
		if r != ':' {
			continue
		}
		part := []rune(spec[start:i])
		if len(part) == 1 && unicode.IsLetter(part[0]) {
			continue
		}
		parts = append(parts, spec[start:i])
		start = i + 1
	}
	parts = append(parts, spec[start:])
	for i, p := range parts {
		switch {
		case p == "":
			return "", fmt.Errorf("invalid spec: %s: empty section between colons", spec)
		case i == 2 && len(parts) > 3:
			return "", fmt.Errorf("invalid spec: %s: too many colons", spec)
		}
	}
	if len(parts) == 1 {
		return "", nil
	}
	return parts[0], nil
}

// mountOpt is --mount with the words and checks of docker 28.
type mountOpt struct {
	opts.MountOpt
	owners map[string]string // by target; the values of idmap, which is ours
}

// Set parses one value and adds it.
func (m *mountOpt) Set(v string) error {
	v, owners, mapped, err := takeIDMap(v)
	if err != nil {
		return err
	}
	err = m.MountOpt.Set(v)
	if mapped && err == nil {
		if m.owners == nil {
			m.owners = map[string]string{}
		}
		all := m.Value()
		m.owners[path.Clean(all[len(all)-1].Target)] = owners
	}
	if err != nil {
		if rest, ok := strings.CutPrefix(err.Error(), "unknown option '"); ok {
			return errors.New("unexpected key '" + rest)
		}
		return err
	}
	if all := m.Value(); all[len(all)-1].Target == "" {
		return errors.New("target is required")
	}
	return nil
}

// takeIDMap takes the field idmap out of a value of --mount, and spells a
// field as docker 28 does that its successor has dropped.
func takeIDMap(v string) (rest, owners string, found bool, err error) {
	fields, err := csv.NewReader(strings.NewReader(v)).Read()
	if err != nil {
		return v, "", false, nil // docker's reader says what is wrong
	}
	kept := fields[:0]
	for _, f := range fields {
		key, value, _ := strings.Cut(f, "=")
		switch strings.ToLower(key) {
		case "idmap":
			if owners, found = value, true; owners == "" {
				owners = "auto"
			}
		case "bind-nonrecursive":
			if no, err := strconv.ParseBool(value); err == nil && !no {
				continue
			}
			kept = append(kept, "bind-recursive=disabled")
		default:
			kept = append(kept, f)
		}
	}
	if len(kept) == 0 {
		return "", "", false, errors.New("type is required")
	}
	var b strings.Builder
	w := csv.NewWriter(&b)
	err = w.Write(kept)
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n"), owners, found, err
}

func parseTmpfs(specs []string) map[string]string {
	m := map[string]string{}
	for _, s := range specs {
		k, v, _ := strings.Cut(s, ":")
		m[k] = v
	}
	return m
}

func parseStorageOpt(specs []string) (map[string]string, error) {
	m := map[string]string{}
	for _, s := range specs {
		k, v, ok := strings.Cut(s, "=")
		if !ok {
			return nil, errors.New("invalid storage option")
		}
		m[k] = v
	}
	return m, nil
}

// parsePorts joins -p in both notations (ip:host:port/proto and
// published=,target=,protocol=) with --expose.
func parsePorts(publish, expose []string) (network.PortSet, network.PortMap, error) {
	short := make([]string, 0, len(publish))
	for _, p := range publish {
		if !strings.Contains(p, "=") {
			short = append(short, p)
			continue
		}
		long := map[string]string{"protocol": "tcp"}
		for _, kv := range strings.Split(p, ",") {
			k, v, ok := strings.Cut(kv, "=")
			if !ok || k == "" {
				return nil, nil, fmt.Errorf("invalid publish opts format (should be name=value but got '%s')", kv)
			}
			long[k] = v
		}
		short = append(short, long["published"]+":"+long["target"]+"/"+long["protocol"])
	}
	set, bound, err := nat.ParsePortSpecs(short)
	if err != nil {
		return nil, nil, err
	}
	exposed, bindings := network.PortSet{}, network.PortMap{}
	for port := range set {
		p, err := network.ParsePort(string(port))
		if err != nil {
			return nil, nil, err
		}
		exposed[p] = struct{}{}
		bindings[p] = []network.PortBinding{}
		for _, b := range bound[port] {
			var ip netip.Addr
			if b.HostIP != "" {
				if ip, err = netip.ParseAddr(b.HostIP); err != nil {
					return nil, nil, err
				}
			}
			bindings[p] = append(bindings[p], network.PortBinding{HostIP: ip, HostPort: b.HostPort})
		}
	}
	for _, e := range expose {
		if err := checkRange(e); err != nil {
			return nil, nil, fmt.Errorf("invalid range format for --expose: %s, error: %w", e, err)
		}
		r, err := network.ParsePortRange(e)
		if err != nil {
			return nil, nil, fmt.Errorf("invalid range format for --expose: %w", err)
		}
		for p := range r.All() {
			exposed[p] = struct{}{}
		}
	}
	return exposed, bindings, nil
}

// PortBindings reads values of -p. The engine may be asked to add each of them
// to a container that exists.
func PortBindings(publish []string) (network.PortMap, error) {
	_, bindings, err := parsePorts(publish, nil)
	return bindings, err
}

// checkRange words a bad number as docker does.
func checkRange(s string) error {
	ports, _, _ := strings.Cut(s, "/")
	for _, n := range strings.SplitN(ports, "-", 2) {
		if _, err := strconv.ParseUint(n, 10, 16); err != nil {
			return err
		}
	}
	return nil
}

// parseSecurity inlines seccomp profiles, because the engine may be on another
// machine, and takes systempaths=unconfined out: that one is expressed by empty
// lists of masked and read-only paths.
func parseSecurity(in []string) (security, masked, readonly []string, err error) {
	security = in[:0]
	for _, opt := range in {
		if opt == "systempaths=unconfined" {
			masked, readonly = []string{}, []string{}
			continue
		}
		k, v, ok := strings.Cut(opt, "=")
		if !ok && k != "no-new-privileges" {
			k, v, ok = strings.Cut(opt, ":")
		}
		if k != "no-new-privileges" && (!ok || v == "") {
			return nil, nil, nil, fmt.Errorf("Invalid --security-opt: %q", opt)
		}
		if k == "seccomp" && v != "unconfined" && v != "builtin" {
			b, err := os.ReadFile(v)
			if err != nil {
				return nil, nil, nil, fmt.Errorf("opening seccomp profile (%s) failed: %w", v, err)
			}
			var out bytes.Buffer
			if err := json.Compact(&out, b); err != nil {
				return nil, nil, nil, fmt.Errorf("compacting json for seccomp profile (%s) failed: %w", v, err)
			}
			opt = "seccomp=" + out.String()
		}
		security = append(security, opt)
	}
	return security, masked, readonly, nil
}

// parseDevices tells host devices (host[:container][:rwm]) from names of the
// container device interface (vendor/class=name).
func parseDevices(specs []string) (devices []container.DeviceMapping, cdi []string, err error) {
	devices = []container.DeviceMapping{}
	for _, s := range specs {
		if qualifiedCDI(s) {
			cdi = append(cdi, s)
			continue
		}
		d, err := parseDevice(s)
		if err != nil {
			return nil, nil, err
		}
		devices = append(devices, d)
	}
	return devices, cdi, nil
}

func parseDevice(s string) (container.DeviceMapping, error) {
	parts := strings.Split(s, ":")
	if len(parts) > 3 || parts[0] == "" {
		return container.DeviceMapping{}, fmt.Errorf("bad format for path: %s", s)
	}
	d := container.DeviceMapping{PathOnHost: parts[0], CgroupPermissions: "rwm"}
	target := parts[0]
	switch {
	case len(parts) == 1:
		d.PathOnHost = path.Clean(parts[0])
		d.PathInContainer = d.PathOnHost
	case len(parts) == 2 && deviceMode(parts[1]):
		d.PathOnHost, d.CgroupPermissions = path.Clean(parts[0]), parts[1]
		d.PathInContainer = d.PathOnHost
	case len(parts) == 2:
		target, d.PathInContainer = parts[1], path.Clean(parts[1])
	default:
		target, d.PathInContainer, d.CgroupPermissions = parts[1], parts[1], parts[2]
		if !deviceMode(parts[2]) {
			return d, fmt.Errorf("bad mode specified: %s", parts[2])
		}
	}
	if !path.IsAbs(target) {
		return d, fmt.Errorf("%s is not an absolute path", target)
	}
	return d, nil
}

// deviceMode accepts r, w and m, each at most once.
func deviceMode(s string) bool {
	if s == "" {
		return false
	}
	for i, r := range s {
		if !strings.ContainsRune("rwm", r) || strings.ContainsRune(s[:i], r) {
			return false
		}
	}
	return true
}

func qualifiedCDI(s string) bool {
	kind, name, ok := strings.Cut(s, "=")
	vendor, class, ok2 := strings.Cut(kind, "/")
	word := regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?$`)
	device := regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?$`)
	return ok && ok2 && word.MatchString(vendor) && word.MatchString(class) && device.MatchString(name)
}

// addrs is never nil: DNS servers are sent as an empty list, not as null.
func addrs(in []string) []netip.Addr {
	out := []netip.Addr{}
	for _, s := range in {
		if a, err := netip.ParseAddr(s); err == nil { // validated with the flag
			out = append(out, a)
		}
	}
	return out
}
