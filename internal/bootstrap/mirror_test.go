package bootstrap

import (
	"os"
	"path/filepath"
	"testing"
)

func TestHostMirrors(t *testing.T) {
	const debian = "NAME=x\nID=debian\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  mirrors
	}{
		"stanzas": {map[string]string{"os-release": debian, "apt/sources.list.d/debian.sources": "Types: deb deb-src\nURIs: http://m.example/debian/\nSuites: trixie trixie-updates\nComponents: main\n\nTypes: deb\nURIs: https://s.example/security\nSuites: trixie-security\n"},
			mirrors{"http://m.example/debian", "https://s.example/security"}},
		"lines": {map[string]string{"os-release": debian, "apt/sources.list": "# deb http://no.example/ x main\ndeb-src http://no.example/ x main\ndeb [arch=amd64 trusted=no] http://m.example/debian bookworm main\ndeb http://s.example/ bookworm-security main\n"},
			mirrors{"http://m.example/debian", "http://s.example"}},
		"switched off, not HTTP": {map[string]string{"os-release": debian, "apt/sources.list.d/a.sources": "Types: deb\nEnabled: no\nURIs: http://no.example\nSuites: x\n\nTypes: deb\nURIs: file:/srv/debian\nSuites: x\n"}, mirrors{}},
		"another distribution":   {map[string]string{"os-release": "ID=ubuntu\nID_LIKE=debian\n", "apt/sources.list": "deb http://no.example/ x main\n"}, mirrors{}},
		"nothing":                {nil, mirrors{}},
	} {
		t.Run(name, func(t *testing.T) {
			etc := t.TempDir()
			for path, text := range c.files {
				path = filepath.Join(etc, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := hostMirrors(etc); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}
