package plugin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxSpec bounds a file that describes a plugin, in bytes.
const maxSpec = 1 << 20

// stamp tells whether a plugin's file is still the one that was read.
type stamp struct {
	path  string
	ino   uint64
	mtime unix.Timespec
}

// address is where a plugin listens.
type address struct {
	network, host string // unix and a path, or tcp and host:port
	tls           *tlsFiles
}

// tlsFiles are a .json file's TLSConfig.
type tlsFiles struct {
	InsecureSkipVerify        bool
	CAFile, CertFile, KeyFile string
}

func (a *address) base() string {
	switch {
	case a.network == "unix":
		return "http://plugin"
	case a.tls != nil:
		return "https://" + a.host
	}
	return "http://" + a.host
}

func (a *address) transport() (*http.Transport, error) {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, a.network, a.host)
		},
		DisableCompression: true, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
	}
	if a.tls == nil {
		return t, nil
	}
	t.TLSClientConfig = &tls.Config{InsecureSkipVerify: a.tls.InsecureSkipVerify, MinVersion: tls.VersionTLS12} //nolint:gosec // the file asks for it
	if a.tls.CAFile != "" {
		pem, err := os.ReadFile(a.tls.CAFile)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", a.tls.CAFile)
		}
	}
	if a.tls.CertFile != "" || a.tls.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(a.tls.CertFile, a.tls.KeyFile)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// find looks for a plugin's file: sockets first, as docker does.
func (s *Set) find(name string) (address, stamp, error) {
	for _, dir := range s.sockets {
		for _, path := range []string{filepath.Join(dir, name+".sock"), filepath.Join(dir, name, name+".sock")} {
			var st unix.Stat_t
			if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK {
				return address{network: "unix", host: path}, stamp{path, st.Ino, st.Mtim}, nil
			}
		}
	}
	for _, dir := range s.specs {
		for _, ext := range []string{".spec", ".json"} {
			for _, path := range []string{filepath.Join(dir, name+ext), filepath.Join(dir, name, name+ext)} {
				at, file, err := read(path)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err != nil {
					return at, file, fmt.Errorf("plugin %s: %s: %w", name, path, err)
				}
				return at, file, nil
			}
		}
	}
	return address{}, stamp{}, notFound(name)
}

// read reads a .spec, which is an address, or a .json.
func read(path string) (a address, s stamp, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return a, s, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxSpec {
		return a, s, errors.New("not a small file")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return a, s, err
	}
	s = stamp{path, st.Ino, st.Mtim}
	if filepath.Ext(path) == ".spec" {
		a, err = parse(strings.TrimSpace(string(data)), nil)
		return a, s, err
	}
	var f struct {
		Addr      string
		TLSConfig *tlsFiles
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return a, s, err
	}
	a, err = parse(f.Addr, f.TLSConfig)
	return a, s, err
}

func parse(text string, files *tlsFiles) (a address, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return a, err
	}
	switch u.Scheme {
	case "unix":
		if !filepath.IsAbs(u.Path) || u.Host != "" {
			return a, fmt.Errorf("the address %q is no absolute path", text)
		}
		return address{network: "unix", host: filepath.Clean(u.Path)}, nil
	case "tcp", "http", "https":
		if u.Host == "" || u.Port() == "" {
			return a, fmt.Errorf("the address %q has no host and port", text)
		}
		if u.Scheme == "https" && files == nil {
			files = &tlsFiles{}
		}
		return address{network: "tcp", host: u.Host, tls: files}, nil
	}
	return a, fmt.Errorf("the address %q is neither unix://, tcp://, http:// nor https://", text)
}
