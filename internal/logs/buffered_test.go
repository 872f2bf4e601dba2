package logs

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

// What does not fit is dropped by whole lines, counted, and told.
func TestBufferedDropsWholeLines(t *testing.T) {
	to := target(t)
	to.Buffer = 1000
	b, err := NewBuffered(to)
	if err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	b.writing = true // the disk takes nothing
	b.mu.Unlock()
	refused, lines := 0, 0
	var out bytes.Buffer
	for i := range 500 {
		fmt.Fprintf(&out, "line %03d\n", i)
		lines++
	}
	for data := out.Bytes(); len(data) > 0; data = data[min(len(data), 64):] { // cuts lines in two
		if b.Copy(Stdout, data[:min(len(data), 64)], time.Now()) != nil {
			refused++
		}
	}
	go b.write()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	got := read(t, to, ReadOptions{Tail: -1})
	if refused == 0 || len(got) == 0 || len(got)+int(b.Dropped()) < lines-1 {
		t.Errorf("%d refused, %d lines kept, %d dropped", refused, len(got), b.Dropped())
	}
	last := -1
	for i, l := range got {
		var n int
		if _, err := fmt.Sscanf(l, "line %d\n", &n); err != nil || len(l) == 9 && n <= last {
			t.Fatalf("line %d is %q", i, l)
		}
		if len(l) == 9 {
			last = n
		} else if last+1 < 10 || l != fmt.Sprintf("line %03d", last+1)[:len(l)] {
			t.Fatalf("line %d is %q, not the beginning of the next", i, l)
		}
	}
}
