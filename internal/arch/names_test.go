package arch

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	pictureLine = regexp.MustCompile(`(?m)^(main|wire|edge|use|store|kernel|base) +(\S.*)$`)
	tableLine   = regexp.MustCompile("(?m)^\\| (`internal/[^|]*) \\|")
	quoted      = regexp.MustCompile("`([^`]*)`")
)

// braces writes out the names in internal/{a,b}.
func braces(word string) []string {
	before, rest, ok := strings.Cut(word, "{")
	if !ok {
		return []string{word}
	}
	var out []string
	for name := range strings.SplitSeq(strings.TrimSuffix(rest, "}"), ",") {
		out = append(out, before+name)
	}
	return out
}

// TestNamed holds ARCHITECTURE.md to the tree: its picture names every part,
// in the layer that the policy gives it, and nothing that is not there; its
// table says what each of them owns.
func TestNamed(t *testing.T) {
	const root = "../.."
	text, err := os.ReadFile(filepath.Join(root, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	r := parse(t, policy)
	layer := map[int]string{}
	for i, name := range []string{"base", "kernel", "store", "use", "edge", "wire", "main"} {
		layer[i+1] = name
	}
	picture := map[string]string{} // package -> layer
	for _, m := range pictureLine.FindAllStringSubmatch(string(text), -1) {
		for word := range strings.FieldsSeq(m[2]) {
			for _, name := range braces(word) {
				picture[name] = m[1]
			}
		}
	}
	table := map[string]bool{}
	for _, m := range tableLine.FindAllStringSubmatch(string(text), -1) {
		for _, name := range quoted.FindAllStringSubmatch(m[1], -1) {
			table[name[1]] = true
		}
	}
	parts := map[string]bool{}
	err = filepath.WalkDir(filepath.Join(root, "internal"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		depth := 2 // internal/network and what is below it are one part
		if under(rel, "internal/linux") {
			depth = 3
		}
		elements := strings.Split(rel, "/")
		parts[strings.Join(elements[:min(depth, len(elements))], "/")] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	delete(parts, "internal/arch") // the rules themselves
	for p := range parts {
		if picture[p] == "" {
			t.Errorf("ARCHITECTURE.md: the picture does not name %s", p)
		}
		if !table[p] && !table[filepath.Dir(p)+"/*"] {
			t.Errorf("ARCHITECTURE.md: the table does not say what %s owns", p)
		}
	}
	for p, in := range picture {
		if in == "main" {
			continue
		}
		if !parts[p] {
			t.Errorf("ARCHITECTURE.md: the picture names %s, which is not there", p)
		}
		if c, ok := r.component(p); !ok || layer[r.layer[c]] != in {
			t.Errorf("ARCHITECTURE.md: the picture has %s in layer %s, the policy in %q", p, in, layer[r.layer[c]])
		}
	}
	for p := range table {
		if dir := strings.TrimSuffix(p, "/*"); !parts[dir] && dir == p && p != "internal/arch" {
			t.Errorf("ARCHITECTURE.md: the table names %s, which is not there", p)
		}
	}
}
