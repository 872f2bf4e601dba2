package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
)

// finish derives what follows from several settings and checks the rest.
func (c *Config) finish(flags *pflag.FlagSet) error {
	// As in dockerd, asking for --tlsverify in any way turns TLS on, and TLS
	// verifies clients unless that was switched off in so many words.
	if flags.Changed("tlsverify") || c.TLS.Verify {
		c.TLS.Enabled = true
	}
	if c.TLS.Enabled {
		if !flags.Changed("tlsverify") && !c.TLS.verifyInFile {
			c.TLS.Verify = true
		}
		if !flags.Changed("tlscert") && !flags.Changed("tlskey") && !c.TLS.explicitCert {
			for _, f := range []*string{&c.TLS.Cert, &c.TLS.Key} {
				if _, err := os.Stat(*f); errors.Is(err, fs.ErrNotExist) {
					*f = ""
				}
			}
		}
	}
	if len(c.Hosts) == 0 {
		c.Hosts = []string{DefaultHost}
	}
	for _, f := range []struct{ name, path string }{{"data-root", c.DataRoot}, {"exec-root", c.ExecRoot}, {"pidfile", c.Pidfile}} {
		if f.path == "" && f.name == "pidfile" {
			continue
		}
		if !filepath.IsAbs(f.path) {
			return fmt.Errorf("invalid %s (%s): must be an absolute path", f.name, f.path)
		}
	}
	if err := errors.Join(c.parseExecOpts(), c.parseStorageOpts()); err != nil {
		return err
	}
	if one := c.DNS.hostGateway; one.IsValid() {
		if len(c.DNS.HostGateway) > 0 {
			return errors.New("conflicting options: host-gateway-ip and host-gateway-ips name the same setting")
		}
		c.DNS.HostGateway = []netip.Addr{one}
	}
	if _, _, err := c.Bridge.Mark(); err != nil {
		return err
	}
	return c.validate()
}

// Mark is AcceptMark as a number and the mask of its bits that count; the mask
// is 0 without one.
func (b *Bridge) Mark() (value, mask uint32, err error) {
	if b.AcceptMark == "" {
		return 0, 0, nil
	}
	text, bits, masked := strings.Cut(b.AcceptMark, "/")
	if !masked {
		bits = "0xffffffff"
	}
	v, err1 := strconv.ParseUint(text, 0, 32)
	m, err2 := strconv.ParseUint(bits, 0, 32)
	if err1 != nil || err2 != nil || m == 0 {
		return 0, 0, fmt.Errorf("invalid firewall mark %q: must be a mark, or a mark and a mask: 0x1/0x3", b.AcceptMark)
	}
	return uint32(v), uint32(m), nil
}

// parseStorageOpts reads dockerd's options of the storage driver overlay2.
func (c *Config) parseStorageOpts() error {
	for _, opt := range c.storageOpts {
		k, v, ok := strings.Cut(opt, "=")
		if !ok {
			return fmt.Errorf("invalid storage-opt (%s): must be formatted 'opt=value'", opt)
		}
		switch strings.ToLower(strings.TrimSpace(k)) {
		case "overlay2.size":
			n, err := units.RAMInBytes(strings.TrimSpace(v))
			if err != nil || n < 0 {
				return fmt.Errorf("invalid storage-opt (%s): not a size", opt)
			}
			c.WritableSize = n
		default:
			return fmt.Errorf("invalid storage-opt (%s): only overlay2.size is served", opt)
		}
	}
	return nil
}

func (c *Config) parseExecOpts() error {
	for _, opt := range c.execOpts {
		k, v, ok := strings.Cut(opt, "=")
		k, v = strings.ToLower(strings.TrimSpace(k)), strings.TrimSpace(v)
		if !ok || k == "" || v == "" {
			return fmt.Errorf("invalid exec-opt (%s): must be formatted 'opt=value'", opt)
		}
		switch {
		case k != "native.cgroupdriver":
			return fmt.Errorf("invalid exec-opt (%s): unknown option: '%s'", opt, k)
		case v != "cgroupfs" && v != "systemd":
			return fmt.Errorf(`invalid exec-opt (%s): native.cgroupdriver option %s not valid, must be "cgroupfs" or "systemd"`, opt, v)
		}
		c.CgroupDriver = v
	}
	return nil
}

func (c *Config) validate() error {
	for _, n := range []struct {
		what  string
		value int
	}{
		{"default MTU", c.Bridge.MTU},
		{"default stop timeout", c.DefaultStopTimeout},
		{"max concurrent downloads", c.Registry.MaxDownloads},
		{"max concurrent uploads", c.Registry.MaxUploads},
		{"max download attempts", c.Registry.MaxDownloadAttempts},
	} {
		if n.value < 0 {
			return fmt.Errorf("invalid %s: %d", n.what, n.value)
		}
	}
	if c.ShutdownTimeout < -1 {
		return fmt.Errorf("invalid shutdown timeout: %d", c.ShutdownTimeout)
	}
	if c.OOMScoreAdjust < -1000 || c.OOMScoreAdjust > 1000 {
		return fmt.Errorf("invalid oom-score-adjust (%d): value must be between -1000 and 1000", c.OOMScoreAdjust)
	}
	if c.ShmSize <= 0 {
		return fmt.Errorf("invalid default-shm-size: %d", c.ShmSize)
	}
	if c.Bridge.Name != "" && c.Bridge.IP != "" {
		return errors.New("you specified -b & --bip, mutually exclusive options; please specify only one")
	}
	switch c.StorageDriver {
	case "", "overlay2", "overlay", "overlayfs", "vfs", "native":
	default:
		return fmt.Errorf("storage-driver %s is not supported by this version of wherryd", c.StorageDriver)
	}
	if c.DefaultRuntime != DefaultRuntime && c.DefaultRuntime != "runc" {
		if _, ok := c.Runtimes[c.DefaultRuntime]; !ok {
			return fmt.Errorf(`specified default runtime "%s" does not exist`, c.DefaultRuntime)
		}
	}
	if v := c.MinAPIVersion; v != "" {
		major, minor, ok := strings.Cut(v, ".")
		n, err := strconv.Atoi(minor)
		if !ok || major != "1" || err != nil || n < 24 {
			return fmt.Errorf("invalid min-api-version: minimum supported API version is %s: %s", MinAPIVersion, v)
		}
	}
	seen := map[string]string{}
	for _, l := range c.Labels {
		k, v, _ := strings.Cut(l, "=")
		if old, dup := seen[k]; dup && old != v {
			return fmt.Errorf("conflict labels for %s=%s and %s=%s", k, v, k, old)
		}
		seen[k] = v
	}
	return nil
}

func validLabel(s string) (string, error) {
	if k, _, ok := strings.Cut(s, "="); !ok || k == "" {
		return "", fmt.Errorf("bad attribute format: %s", s)
	}
	return s, nil
}

var domain = regexp.MustCompile(`^(:?(:?[a-zA-Z0-9_]|(:?[a-zA-Z0-9_][a-zA-Z0-9_-]*[a-zA-Z0-9_]))\.?)+$`)

func validDomain(s string) (string, error) {
	if s = strings.Trim(s, " "); s == "." {
		return s, nil
	}
	if len(s) >= 255 || !domain.MatchString(s) {
		return "", fmt.Errorf("invalid domain: %s", s)
	}
	return s, nil
}

func validHost(s string) (string, error) {
	if s = strings.TrimSpace(s); s == "" {
		return s, nil
	}
	_, _, err := ParseHost(s, false)
	return s, err
}

// ParseHost splits a -H argument into a protocol (unix, tcp or fd) and what to
// listen on. A tcp address without a port gets docker's: 2375, or 2376 with TLS.
func ParseHost(s string, tls bool) (proto, addr string, err error) {
	if s == "" {
		s = DefaultHost
	}
	proto, addr, ok := strings.Cut(s, "://")
	if !ok {
		proto, addr = "tcp", s
	}
	switch proto {
	case "unix":
		if addr == "" {
			addr = strings.TrimPrefix(DefaultHost, "unix://")
		}
		if !filepath.IsAbs(addr) {
			return "", "", fmt.Errorf("invalid bind address (%s): path must be absolute", s)
		}
	case "fd":
	case "tcp":
		port := "2375"
		if tls {
			port = "2376"
		}
		host, given, serr := net.SplitHostPort(addr)
		switch {
		case addr == "":
			host = "127.0.0.1"
		case serr != nil && strings.Contains(serr.Error(), "missing port"):
			host = strings.Trim(addr, "[]")
		case serr != nil || strings.ContainsAny(host, "/ "):
			return "", "", fmt.Errorf("invalid bind address format: %s", s)
		case given != "":
			if _, perr := strconv.ParseUint(given, 10, 16); perr != nil {
				return "", "", fmt.Errorf("invalid bind address (%s): invalid port %q", s, given)
			}
			port = given
		}
		if strings.ContainsAny(host, "/ ") {
			return "", "", fmt.Errorf("invalid bind address format: %s", s)
		}
		addr = net.JoinHostPort(host, port)
	default:
		return "", "", fmt.Errorf("invalid bind address format: %s", s)
	}
	return proto, addr, nil
}
