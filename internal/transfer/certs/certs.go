// Package certs owns the certificates of registries: docker's directories, one
// for each host[:port], with CAs (*.crt) and client certificates (*.cert, each
// with its *.key).
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
)

// Stamp changes when one of the files, or a file in a host's directories, comes,
// goes or is written, so that it counts at once.
func Stamp(roots []string, host string, files ...string) string {
	var text strings.Builder
	note := func(name string, st fs.FileInfo, err error) {
		if err != nil {
			return
		}
		inode := uint64(0)
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			inode = sys.Ino
		}
		fmt.Fprintln(&text, name, st.Size(), st.ModTime().UnixNano(), inode)
	}
	for _, root := range roots {
		dir := filepath.Join(root, host)
		list, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, f := range list {
			st, err := os.Stat(filepath.Join(dir, f.Name())) // what a link leads to counts
			note(filepath.Join(dir, f.Name()), st, err)
		}
	}
	for _, name := range files {
		if name != "" {
			st, err := os.Stat(name)
			note(name, st, err)
		}
	}
	return text.String()
}

// Load makes the TLS settings for a host from all roots' directories for it.
func Load(roots []string, host string) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	for _, root := range roots {
		dir := filepath.Join(root, host)
		if filepath.Dir(dir) != filepath.Clean(root) {
			continue
		}
		files, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if err := add(conf, dir, f.Name()); err != nil {
				return nil, fmt.Errorf("certificates of %s: %w", host, err)
			}
		}
	}
	return conf, nil
}

// add takes one file of a directory.
func add(conf *tls.Config, dir, name string) error {
	path := filepath.Join(dir, name)
	stem := strings.TrimSuffix(path, filepath.Ext(path))
	switch filepath.Ext(path) {
	case ".crt":
		return Trust(conf, path)
	case ".cert":
		if _, err := os.Stat(stem + ".key"); err != nil {
			return invalid("missing key %s.key for client certificate %s. CA certificates must use the extension .crt", filepath.Base(stem), name)
		}
		return Present(conf, path, stem+".key")
	case ".key":
		if _, err := os.Stat(stem + ".cert"); err != nil {
			return invalid("missing client certificate %s.cert for key %s", filepath.Base(stem), name)
		}
	}
	return nil
}

// Trust adds a file of CAs to the system's.
func Trust(conf *tls.Config, file string) error {
	pem, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if conf.RootCAs == nil {
		if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
			return err
		}
	}
	if !conf.RootCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no certificate", file)
	}
	return nil
}

// Present adds a client certificate.
func Present(conf *tls.Config, cert, key string) error {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return err
	}
	conf.Certificates = append(conf.Certificates, pair)
	return nil
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
