package linked

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"testing"
)

// layers makes directories of layers, and what they are called with.
func layers(t *testing.T, n int) (dirs []string) {
	t.Helper()
	root := t.TempDir()
	for i := range n {
		dirs = append(dirs, fmt.Sprint(root, "/", i, "/fs"))
		if err := os.MkdirAll(dirs[i]+"/sub", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dirs
}

func link(t *testing.T, from, to, name string) {
	t.Helper()
	if err := os.Link(from+"/sub/"+name, to+"/sub/"+name); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(to[:len(to)-len("fs")]+"linked", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fmt.Fprintln(f, from[len(from)-len("0/fs"):len(from)-len("/fs")])
}

// TestTwice counts a file of the context 0 that 1 and 2 have links to, and one
// of 1 that 3 has.
func TestTwice(t *testing.T) {
	dirs := layers(t, 5)
	const large, small = 64 << 10, 8 << 10
	for at, size := range map[string]int{dirs[0] + "/sub/large": large, dirs[0] + "/sub/own": small, dirs[1] + "/sub/small": small, dirs[4] + "/sub/apart": small} {
		if err := os.WriteFile(at, bytes.Repeat([]byte("x"), size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(dirs[0]+"/sub/large", dirs[0]+"/again"); err != nil {
		t.Fatal(err)
	}
	link(t, dirs[0], dirs[1], "large")
	link(t, dirs[0], dirs[2], "large")
	link(t, dirs[1], dirs[3], "small")
	var l Ledger
	holders := func(image int, left ...int) (out []Holder) {
		for _, i := range left {
			out = append(out, Holder{ID: fmt.Sprint(i), Dir: dirs[i], Still: i > 0, Image: i == image})
		}
		return out
	}
	for _, c := range []struct {
		name    string
		holders []Holder
		twice   map[string]int64
		gone    string // records, and what Over says when they go
		over    int64
	}{
		{"all", holders(-1, 0, 1, 2, 3, 4), map[string]int64{"1": large, "2": large, "3": small}, "02", 2 * large},
		{"an image's", holders(2, 0, 1, 2, 3, 4), map[string]int64{"0": large, "1": large, "3": small}, "013", 2*large + small},
		{"without the context", holders(-1, 1, 2, 3, 4), map[string]int64{"2": large, "3": small}, "12", large + small},
		{"all gone at once", holders(-1, 0, 1, 2, 3, 4), map[string]int64{"1": large, "2": large, "3": small}, "01234", 2*large + small},
		{"the last two", holders(-1, 3, 4), map[string]int64{}, "34", 0},
		{"nothing", nil, map[string]int64{}, "", 0},
	} {
		a, err := l.Read(c.holders)
		if err != nil {
			t.Fatal(c.name, err)
		}
		if got := a.Twice(); !maps.Equal(got, c.twice) {
			t.Errorf("%s: %v, not %v", c.name, got, c.twice)
		}
		if got := a.Lengths(); !maps.Equal(got, c.twice) { // the files fill their blocks
			t.Errorf("%s: lengths %v, not %v", c.name, got, c.twice)
		}
		gone := map[string]bool{}
		for _, id := range c.gone {
			gone[string(id)] = true
		}
		if got := a.Over(gone); got != c.over {
			t.Errorf("%s: %d over, not %d", c.name, got, c.over)
		}
	}
	// What changes is looked at again, and what is gone is no error.
	if err := os.Remove(dirs[0] + "/sub/large"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dirs[0] + "/again"); err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(dirs[3])
	a, err := l.Read(holders(-1, 0, 1, 2, 3, 4))
	if err != nil {
		t.Fatal(err)
	}
	if got := a.Twice(); !maps.Equal(got, map[string]int64{"2": large}) {
		t.Errorf("%v", got)
	}
}
