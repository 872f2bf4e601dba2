// Package resolv owns the text of /etc/resolv.conf, /etc/hosts and
// /etc/hostname inside containers. Its functions write no file.
package resolv

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

var (
	hostFile = "/etc/resolv.conf"
	// systemdFile has the servers behind systemd-resolved's stub.
	systemdFile = "/run/systemd/resolve/resolv.conf"
)

// Conf is a resolv.conf.
type Conf struct {
	Path    string // where it was read from
	Servers []netip.Addr
	Search  []string
	Options []string
	other   []string // directives that are passed on as they are
	bad     []string
}

// Parse reads a resolv.conf; it never fails, what cannot be read is left out.
func Parse(path string, data []byte) *Conf {
	c := &Conf{Path: path}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		line := s.Text()
		f := strings.Fields(line)
		if len(f) == 0 || f[0][0] == '#' || f[0][0] == ';' {
			continue
		}
		switch {
		case f[0] == "nameserver" && len(f) > 1:
			a, err := netip.ParseAddr(f[1])
			if err != nil {
				c.bad = append(c.bad, f[1])
				continue
			}
			c.Servers = append(c.Servers, a)
		case (f[0] == "search" || f[0] == "domain") && len(f) > 1:
			c.Search = f[1:]
		case f[0] == "options" && len(f) > 1:
			c.Options = append(c.Options, f[1:]...)
		case f[0] != "nameserver" && f[0] != "search" && f[0] != "domain" && f[0] != "options":
			c.other = append(c.other, line)
		}
	}
	return c
}

// Host reads the host's resolv.conf. When it names only systemd-resolved's
// stub, the file with the real servers is read instead. A host without the
// file has an empty one.
func Host() *Conf {
	data, err := os.ReadFile(hostFile)
	if err != nil {
		return Parse(hostFile, nil)
	}
	c := Parse(hostFile, data)
	if len(c.Servers) == 1 && c.Servers[0] == netip.MustParseAddr("127.0.0.53") {
		if data, err := os.ReadFile(systemdFile); err == nil {
			return Parse(systemdFile, data)
		}
	}
	return c
}

// Read makes another file than /etc/resolv.conf the host's (daemon.json's
// resolv-conf). It is called before anything asks for the host's servers.
func Read(path string) { hostFile, systemdFile = path, "" }

// HostServers are the name servers that the host asks.
func HostServers() []netip.Addr { return Host().Servers }

// Servers follows the host's name servers: asking costs a look at the files'
// dates. The zero value is ready; it is safe for concurrent use.
type Servers struct {
	mu    sync.Mutex
	seen  [2]stamp
	known []netip.Addr
}

// stamp tells whether a file is still the same.
type stamp struct {
	ino   uint64
	size  int64
	mtime unix.Timespec
}

func stampOf(path string) (s stamp) {
	var st unix.Stat_t
	if unix.Stat(path, &st) == nil {
		s = stamp{st.Ino, st.Size, st.Mtim}
	}
	return s
}

// Now are the servers as the host has them now. They are not to be changed.
func (s *Servers) Now() []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := [2]stamp{stampOf(hostFile), stampOf(systemdFile)}
	if s.known == nil || now != s.seen {
		// The dates come first: a change in between is seen the next time.
		s.seen, s.known = now, append([]netip.Addr{}, HostServers()...)
	}
	return s.known
}

// Overrides are what the user and the configuration say instead of the host.
type Overrides struct {
	Servers []netip.Addr
	Search  []string // ["."] is an empty list
	Options []string
}

// Legacy is the file for a container on the default bridge, which has no name
// service of its own: the host's servers without those that only the host can
// reach, else docker's fall-backs.
func (c *Conf) Legacy(o Overrides, ipv6 bool) []byte {
	out := c.overridden(o)
	var notes []string
	if len(o.Servers) == 0 {
		out.Servers = slices.DeleteFunc(out.Servers, func(a netip.Addr) bool { return a.IsLoopback() || a.Is6() && !ipv6 })
		if len(out.Servers) == 0 {
			out.Servers = fallback(ipv6)
			notes = append(notes, "# Used default nameservers.")
		}
	}
	return out.text("legacy", notes, o)
}

// Plain is the file for a container in the host's namespace.
func (c *Conf) Plain(o Overrides) []byte { return c.overridden(o).text("", nil, o) }

// Internal is the file for a container whose names are served at server, and
// the servers to forward to.
func (c *Conf) Internal(server netip.Addr, o Overrides) ([]byte, []netip.Addr) {
	out := c.overridden(o)
	forward := out.Servers
	out.Servers = []netip.Addr{server}
	if !slices.ContainsFunc(out.Options, func(s string) bool { return strings.HasPrefix(s, "ndots:") }) {
		out.Options = append(out.Options, "ndots:0")
	}
	names := make([]string, len(forward))
	for i, a := range forward {
		names[i] = a.String()
		if len(o.Servers) == 0 {
			names[i] = "host(" + names[i] + ")"
		}
	}
	notes := []string{"# ExtServers: [" + strings.Join(names, " ") + "]"}
	if len(forward) == 0 {
		notes = []string{"# NO EXTERNAL NAMESERVERS DEFINED"}
	}
	return out.text("internal resolver", notes, o), forward
}

func (c *Conf) overridden(o Overrides) *Conf {
	out := &Conf{Path: c.Path, Servers: slices.Clone(c.Servers), Search: slices.Clone(c.Search), Options: slices.Clone(c.Options), other: c.other, bad: c.bad}
	if len(o.Servers) > 0 {
		out.Servers = slices.Clone(o.Servers)
	}
	if len(o.Search) > 0 {
		out.Search = slices.DeleteFunc(slices.Clone(o.Search), func(s string) bool { return s == "." })
	}
	if len(o.Options) > 0 {
		out.Options = slices.Clone(o.Options)
	}
	return out
}

func (c *Conf) text(how string, notes []string, o Overrides) []byte {
	var b bytes.Buffer
	b.WriteString("# Generated by Wherry.\n# This file can be edited; Wherry will not make further changes once it\n# has been modified.\n\n")
	for _, s := range c.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	for _, l := range []struct {
		word  string
		items []string
	}{{"search", c.Search}, {"options", c.Options}} {
		if len(l.items) > 0 {
			fmt.Fprintf(&b, "%s %s\n", l.word, strings.Join(l.items, " "))
		}
	}
	for _, s := range c.other {
		b.WriteString(s + "\n")
	}
	fmt.Fprintf(&b, "\n# Based on host file: '%s'", c.Path)
	if how != "" {
		fmt.Fprintf(&b, " (%s)", how)
	}
	b.WriteString("\n")
	for _, n := range notes {
		b.WriteString(n + "\n")
	}
	if len(c.bad) > 0 {
		fmt.Fprintf(&b, "# Invalid nameservers: [%s]\n", strings.Join(c.bad, " "))
	}
	var over []string
	for _, x := range []struct {
		name string
		n    int
	}{{"nameservers", len(o.Servers)}, {"search", len(o.Search)}, {"options", len(o.Options)}} {
		if x.n > 0 {
			over = append(over, x.name)
		}
	}
	fmt.Fprintf(&b, "# Overrides: [%s]\n", strings.Join(over, " "))
	return b.Bytes()
}

func fallback(ipv6 bool) []netip.Addr {
	out := []netip.Addr{netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("8.8.4.4")}
	if ipv6 {
		out = append(out, netip.MustParseAddr("2001:4860:4860::8888"), netip.MustParseAddr("2001:4860:4860::8844"))
	}
	return out
}
