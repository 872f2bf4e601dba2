package certs

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestStamp: whatever is done to a certificate changes the stamp, and nothing
// else does.
func TestStamp(t *testing.T) {
	root, other := t.TempDir(), filepath.Join(t.TempDir(), "mirror.pem")
	dir := filepath.Join(root, "reg.lan:5000")
	at := time.Unix(1e9, 0)
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	stamp := func() string { return Stamp([]string{"/nowhere", root}, "reg.lan:5000", other, "") }
	last := stamp()
	file := filepath.Join(dir, "ca.crt")
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"made", func() error { write(file, "one"); return nil }},
		{"longer, in place, at the same time", func() error { write(file, "three"); return nil }},
		{"as long, in place", func() error { at = at.Add(time.Nanosecond); write(file, "seven"); return nil }},
		{"replaced by one as long and as old", func() error { write(file+".new", "eight"); return os.Rename(file+".new", file) }},
		{"the mirror's", func() error { write(other, "x"); return nil }},
		{"by a link", func() error { return os.Symlink(other, filepath.Join(dir, "client.cert")) }},
		{"what the link leads to", func() error { write(other, "xy"); return nil }},
		{"removed", func() error { return os.Remove(file) }},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		now := stamp()
		if now == last {
			t.Errorf("%s: the stamp stays\n%s", step.name, now)
		}
		if stamp() != now {
			t.Errorf("%s: the stamp changes by itself", step.name)
		}
		last = now
	}
}
