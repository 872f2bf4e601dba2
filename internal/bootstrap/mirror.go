package bootstrap

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mirrors are where a Debian host's apt gets its packages: the archive, and
// that of security updates; "" for one that it does not have.
type mirrors struct{ archive, security string }

// hostMirrors reads apt's sources below etc, in both of their forms (see
// sources.list(5)). A host that is not Debian has none that are of use.
func hostMirrors(etc string) mirrors {
	var m mirrors
	if release, err := os.ReadFile(filepath.Join(etc, "os-release")); err != nil || !slices.Contains(strings.Split(string(release), "\n"), "ID=debian") {
		return m
	}
	one, _ := filepath.Glob(filepath.Join(etc, "apt/sources.list.d/*.sources")) // the pattern is well-formed
	other, _ := filepath.Glob(filepath.Join(etc, "apt/sources.list.d/*.list"))
	for _, path := range append(append([]string{filepath.Join(etc, "apt/sources.list")}, other...), one...) {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if strings.HasSuffix(path, ".sources") {
			m.stanzas(b)
		} else {
			m.lines(b)
		}
	}
	return m
}

// lines reads "deb [options] URI SUITE COMPONENT...".
func (m *mirrors) lines(b []byte) {
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		kind, rest, _ := strings.Cut(strings.TrimSpace(sc.Text()), " ")
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			_, rest, _ = strings.Cut(rest, "]")
		}
		if f := strings.Fields(rest); kind == "deb" && len(f) > 1 {
			m.add(f[:1], f[1:2])
		}
	}
}

// stanzas reads "Types:", "URIs:" and "Suites:" in paragraphs.
func (m *mirrors) stanzas(b []byte) {
	for _, paragraph := range strings.Split(string(b), "\n\n") {
		fields := map[string][]string{}
		for _, line := range strings.Split(paragraph, "\n") {
			if key, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, "#") {
				fields[strings.ToLower(key)] = strings.Fields(value)
			}
		}
		if slices.Contains(fields["types"], "deb") && !slices.Contains(fields["enabled"], "no") {
			m.add(fields["uris"], fields["suites"])
		}
	}
}

// add notes the first of each kind that can be reached over HTTP.
func (m *mirrors) add(uris, suites []string) {
	for _, u := range uris {
		if !strings.HasPrefix(u, "http://") && !strings.HasPrefix(u, "https://") {
			continue
		}
		for _, s := range suites {
			to := &m.archive
			if strings.HasSuffix(s, "-security") {
				to = &m.security
			}
			if *to == "" {
				*to = strings.TrimSuffix(u, "/")
			}
		}
	}
}
