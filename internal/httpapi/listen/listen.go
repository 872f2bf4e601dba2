// Package listen owns the sockets that the API is answered on: unix sockets
// with their owner and mode, tcp with and without TLS, and those that systemd
// passes on.
package listen

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/wherry-engine/wherry/internal/config"
)

// Open opens everything that the configuration names, or nothing. A unix
// socket is never reachable with more rights than it will have, and one that
// somebody answers on is left alone.
func Open(c *config.Config) ([]net.Listener, error) {
	var all []net.Listener
	fail := func(err error) ([]net.Listener, error) {
		for _, l := range all {
			l.Close()
		}
		return nil, err
	}
	for _, host := range c.Hosts {
		proto, addr, err := config.ParseHost(host, c.TLS.Enabled)
		if err != nil {
			return fail(err)
		}
		var ls []net.Listener
		switch proto {
		case "unix":
			ls, err = listenUnix(addr, c)
		case "tcp":
			ls, err = listenTCP(addr, c)
		case "fd":
			ls, err = activated(addr)
		}
		if err != nil {
			return fail(fmt.Errorf("listen on %s: %w", host, err))
		}
		all = append(all, ls...)
	}
	return all, nil
}

// Warnings is what `info` tells every client about sockets that let in whoever
// can reach them.
func Warnings(c *config.Config) []string {
	const say = "WARNING: API is accessible on %s without %s.\n         Access to the remote API is equivalent to root access on the host; docs/remote.md tells how to make certificates."
	var out []string
	for _, host := range c.Hosts {
		proto, addr, err := config.ParseHost(host, c.TLS.Enabled)
		switch {
		case err != nil || proto != "tcp":
		case !c.TLS.Enabled:
			out = append(out, fmt.Sprintf(say, "http://"+addr, "encryption"))
		case !c.TLS.Verify:
			out = append(out, fmt.Sprintf(say, "https://"+addr, "TLS client verification"))
		}
	}
	return out
}

func listenTCP(addr string, c *config.Config) ([]net.Listener, error) {
	if !c.TLS.Enabled || !c.TLS.Verify {
		for _, text := range []string{
			"Binding to IP address without --tlsverify is insecure and gives root access on this machine to everyone who has access to your network.",
			"Binding to an IP address, even on localhost, can also give access to scripts run in a browser. Be safe out there!",
		} {
			slog.Warn(text, "host", "tcp://"+addr)
		}
	}
	var t *tls.Config
	if c.TLS.Enabled {
		var err error
		if t, err = tlsConfig(c.TLS); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	if t != nil {
		l = newTLSListener(l, t)
	}
	return []net.Listener{l}, nil
}

// tlsConfig speaks HTTP/1.1 only: streams are hijacked connections.
func tlsConfig(o config.TLS) (*tls.Config, error) {
	if o.Cert == "" || o.Key == "" {
		return nil, errors.New("TLS needs a certificate and a key: --tlscert and --tlskey")
	}
	pair, err := tls.LoadX509KeyPair(o.Cert, o.Key)
	if err != nil {
		return nil, fmt.Errorf("could not load X509 key pair (cert: %q, key: %q): %w", o.Cert, o.Key, err)
	}
	t := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if !o.Verify {
		return t, nil
	}
	pem, err := os.ReadFile(o.CACert)
	if err != nil {
		return nil, fmt.Errorf("could not read CA certificate %q: %w", o.CACert, err)
	}
	t.ClientAuth, t.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	if !t.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("failed to append certificates from PEM file: %q", o.CACert)
	}
	return t, nil
}

// unixListener removes its socket's name when it is closed, if the name is
// still that of its own socket.
type unixListener struct {
	net.Listener
	path string
	file fs.FileInfo
}

// Addr is the name under which clients find it; it was bound under another one.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

func (l *unixListener) Close() error {
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.file) {
		os.Remove(l.path)
	}
	return l.Listener.Close()
}

func listenUnix(path string, c *config.Config) ([]net.Listener, error) {
	gid, err := groupID(c)
	if err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	// Bound inside a closed directory and moved when owner and mode are right.
	// The directory is named through its descriptor, so that the name's length
	// cannot be the problem where the final one is not.
	closed, err := os.MkdirTemp(dir, ".wherry-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(closed)
	d, err := os.Open(closed)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/s", d.Fd()))
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	made := filepath.Join(closed, "s")
	err = errors.Join(os.Chmod(made, 0o660), os.Lchown(made, os.Getuid(), gid))
	if err == nil {
		err = os.Rename(made, path)
	}
	var file fs.FileInfo
	if err == nil {
		file, err = os.Lstat(path)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return []net.Listener{&unixListener{l, path, file}}, nil
}

// removeStale makes room for a socket: only for what is a socket, and only
// when nobody answers on it.
func removeStale(path string) error {
	old, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if old.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("%s: %w", path, syscall.EADDRINUSE)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// groupID looks the socket's group up. The default group need not exist; then
// the socket is root's alone.
func groupID(c *config.Config) (int, error) {
	if c.Group == "" {
		return os.Getgid(), nil
	}
	if gid, err := strconv.Atoi(c.Group); err == nil && gid >= 0 {
		return gid, nil
	}
	g, err := user.LookupGroup(c.Group)
	if err == nil {
		return strconv.Atoi(g.Gid)
	}
	if c.GroupExplicit {
		return 0, fmt.Errorf("group %s not found", c.Group)
	}
	slog.Debug("no group for the socket", "group", c.Group, "error", err)
	return os.Getgid(), nil
}

// activated returns the sockets that systemd passed: all, or the one of the
// given descriptor number.
func activated(addr string) ([]net.Listener, error) {
	all, err := activation.Listeners()
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("no sockets found via socket activation: make sure the service was started by systemd")
	}
	wanted := -1
	if addr != "" && addr != "*" {
		n, err := strconv.Atoi(addr)
		if err != nil {
			return nil, fmt.Errorf("failed to parse systemd fd address: should be a number: %v", addr)
		}
		const first = 3
		if wanted = n - first; wanted < 0 || wanted >= len(all) || all[wanted] == nil {
			return nil, fmt.Errorf("no socket was passed as descriptor %d", n)
		}
	}
	var out []net.Listener
	for i, l := range all {
		switch {
		case l == nil:
		case wanted < 0 || i == wanted:
			out = append(out, l)
		default:
			l.Close()
		}
	}
	return out, nil
}
