package bootstrap

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
)

const list = `Package: base
Version: 1
Essential: yes
Pre-Depends: awk, libone (>= 2) | libother
Depends: usrmerge | usr-is-merged, debconf (>= 0.5) | debconf-2.0
Filename: pool/b/base_1_all.deb
Size: 3
SHA256: 0000000000000000000000000000000000000000000000000000000000000000

Package: gawk
Version: 1
Provides: awk
Filename: pool/g/gawk_1_all.deb
Size: 3
SHA256: 0000000000000000000000000000000000000000000000000000000000000000

Package: mawk
Version: 1
Provides: awk
Priority: required
Filename: pool/m/mawk_1_all.deb
Size: 3
SHA256: 0000000000000000000000000000000000000000000000000000000000000000

`

func more(names ...string) (text string) {
	for _, name := range names {
		name, needs, _ := strings.Cut(name, ":")
		text += "Package: " + name + "\nVersion: 1\nDepends: " + needs + "\nFilename: pool/" + name + "_1_all.deb\nSize: 3\nSHA256: " + strings.Repeat("1", 64) + "\n\n"
	}
	return text
}

func parse(t *testing.T, text string) *index {
	t.Helper()
	x, err := parsePackages(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func names(list []*pkg) (out []string) {
	for _, p := range list {
		out = append(out, p.name)
	}
	return out
}

// TestChoose: alternatives that are chosen anyway win, then the first that exists.
func TestChoose(t *testing.T) {
	x := parse(t, list+more("libother", "usrmerge:perl", "usr-is-merged", "debconf", "apt:libapt", "libapt", "extra:libextra, apt", "libextra", "broken:nothere"))
	s, err := x.choose([]string{"extra"})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(s.base); !slices.Equal(got, []string{"apt", "base", "debconf", "libapt", "libother", "mawk", "usr-is-merged"}) {
		t.Errorf("base %v", got)
	}
	if got := names(s.rest); !slices.Equal(got, []string{"extra", "libextra"}) {
		t.Errorf("rest %v", got)
	}
	for include, want := range map[string]string{"broken": "broken needs nothere, which the mirror does not have", "none": "there is no package none"} {
		if _, err := x.choose([]string{include}); err == nil || err.Error() != want {
			t.Errorf("%s: %v", include, err)
		}
	}
	if _, err := parsePackages(bufio.NewReader(strings.NewReader(strings.Replace(list, "base_1_all.deb", "$(reboot).deb", 1)))); err == nil {
		t.Error("a file name that a shell would run was taken")
	}
}

// mirror serves a suite that is signed by key.
func mirror(t *testing.T, key *openpgp.Entity, release string, files map[string][]byte) string {
	t.Helper()
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, key.PrivateKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, release)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/InRelease") {
			w.Write(b.Bytes())
			return
		}
		if body, ok := files[r.URL.Path]; ok {
			w.Write(body)
			return
		}
		http.NotFound(w, r)
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return "http://" + l.Addr().String()
}

func key(t *testing.T) (*openpgp.Entity, []byte) {
	t.Helper()
	e, err := openpgp.NewEntity("archive", "", "a@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := e.Serialize(&b); err != nil {
		t.Fatal(err)
	}
	return e, b.Bytes()
}

// TestRelease: what is not signed by a known key, is about another suite, is
// too old, or does not fit its checksum, is refused by name.
func TestRelease(t *testing.T) {
	good, keys := key(t)
	bad, _ := key(t)
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	io.WriteString(w, list)
	w.Close()
	const path = "main/binary-amd64/Packages.gz"
	text := func(more string) string {
		return fmt.Sprintf("Suite: stable\nCodename: suite\n%sSHA256:\n %x %d %s\n", more, sha256.Sum256(z.Bytes()), z.Len(), path)
	}
	files := map[string][]byte{"/dists/suite/" + path: z.Bytes()}
	var warned string
	open := func(key *openpgp.Entity, body, suite string, keys []byte) (string, *release, error) {
		at := mirror(t, key, body, files)
		r, err := openRelease(t.Context(), at, suite, keys, func(text string) { warned = text })
		return at, r, err
	}
	at, r, err := open(good, text(""), "suite", keys)
	if err != nil || warned != "" {
		t.Fatal(err, warned)
	}
	x, err := r.packages(t.Context(), at, "suite", "amd64")
	if err != nil || len(x.byName) != 3 {
		t.Fatal(err, x)
	}
	if _, err := r.packages(t.Context(), at, "suite", "m68k"); err == nil || !strings.Contains(err.Error(), "suite has no packages for m68k") {
		t.Errorf("an architecture that is not there: %v", err)
	}
	if _, _, err := open(bad, text(""), "suite", keys); err == nil || !strings.Contains(err.Error(), "signature") {
		t.Errorf("another key: %v", err)
	}
	if _, _, err := open(bad, text(""), "suite", nil); err != nil || !strings.Contains(warned, "was NOT checked") {
		t.Errorf("without keys: %v, %q", err, warned)
	}
	if _, _, err := open(good, text(""), "other", keys); err == nil || !strings.Contains(err.Error(), "is about suite (stable), not other") {
		t.Errorf("another suite: %v", err)
	}
	if _, _, err := open(good, text("Valid-Until: Sat, 01 Jan 2022 00:00:00 UTC\n"), "suite", keys); err == nil || !strings.Contains(err.Error(), "was valid until") {
		t.Errorf("an old one: %v", err)
	}
	files["/dists/suite/"+path] = append(slices.Clone(z.Bytes()), 0)
	if _, err := r.packages(t.Context(), at, "suite", "amd64"); err == nil || !strings.Contains(err.Error(), "expected") {
		t.Errorf("a changed list: %v", err)
	}
	m := &maker{Options: Options{Mirror: at}, say: func(string) {}}
	files["/pool/x.deb"] = []byte("abc")
	if _, err := m.fetch(t.Context(), []*pkg{{name: "x", filename: "pool/x.deb", file: file{strings.Repeat("0", 64), 3}}}); err == nil || !strings.Contains(err.Error(), "/pool/x.deb has 3 bytes with SHA256 ba78") {
		t.Errorf("a changed package: %v", err)
	}
	if _, err := m.fetch(t.Context(), []*pkg{{name: "y", filename: "pool/y.deb", file: file{strings.Repeat("0", 64), 3}}}); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a missing package: %v", err)
	}
}

// TestUnpack: files go where they lie when /usr is merged.
func TestUnpack(t *testing.T) {
	var data, out bytes.Buffer
	tw := tar.NewWriter(&data)
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./bin/sh", Typeflag: tar.TypeReg, Mode: 0o755, Size: 2}, {Name: "./bin/hard", Typeflag: tar.TypeLink, Linkname: "./bin/sh"},
		{Name: "./lib/x/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "./usr/share/doc", Typeflag: tar.TypeSymlink, Linkname: "../x"}, {Name: "./../etc/x", Typeflag: tar.TypeReg},
	} {
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		tw.Write(bytes.Repeat([]byte("x"), int(h.Size)))
	}
	tw.Close()
	var deb bytes.Buffer
	deb.WriteString("!<arch>\n")
	for _, m := range []struct {
		name string
		body []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar", []byte("odd")}, {"data.tar", data.Bytes()}} {
		fmt.Fprintf(&deb, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.body))
		deb.Write(m.body)
		if len(m.body)%2 == 1 {
			deb.WriteByte('\n')
		}
	}
	r := newRoot(&out)
	if err := errors.Join(r.links(), r.unpack(deb.Bytes(), nil), r.tw.Close()); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for tr := tar.NewReader(&out); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		if _, twice := got[h.Name]; twice {
			t.Errorf("%s is there twice", h.Name)
		}
		got[h.Name] = string(h.Typeflag) + h.Linkname
	}
	want := map[string]string{"usr/bin/sh": "0", "usr/bin/hard": "1usr/bin/sh", "usr/lib/x/": "5", "usr/share/doc": "2../x", "etc/x": "0", "bin": "2usr/bin", "lib": "2usr/lib", "usr/": "5", "usr/bin/": "5"}
	for name, kind := range want {
		if got[name] != kind {
			t.Errorf("%s: %q, want %q (all: %v)", name, got[name], kind, slices.Sorted(maps.Keys(got)))
		}
	}
	for i := range deb.Len() {
		if i%97 == 0 {
			newRoot(io.Discard).unpack(deb.Bytes()[:i], nil) // must not panic
		}
	}
	if err := newRoot(io.Discard).unpack([]byte("no package"), nil); err == nil {
		t.Error("rubbish was unpacked")
	}
}

// TestNames: what cannot be made is refused before anything is fetched.
func TestNames(t *testing.T) {
	for _, o := range []Options{{Name: "debian"}, {Name: "debian:../x"}, {Name: "fedora:40"}, {Name: "busybox", Include: []string{"x"}}, {Name: "debian:sid", Include: []string{"a b"}}, {Name: ""}} {
		if _, err := Run(context.Background(), nil, o, nil); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}
