package atomicfile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	// What a crash may have left in the way.
	if err := os.WriteFile(filepath.Join(dir, ".f.tmp"), []byte("half of something longer"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, d := range []Durability{Cached, Synced} {
		for _, text := range []string{"one", "", "three"} {
			if err := Write(path, []byte(text), 0o640, d); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != text {
				t.Errorf("%q, %v; want %q", got, err, text)
			}
		}
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("%v left in the directory", names)
	}
	if err := Write(filepath.Join(dir, "no", "f"), nil, 0o600, Cached); err == nil {
		t.Error("wrote into a directory that is not there")
	}
}
