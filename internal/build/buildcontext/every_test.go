package buildcontext

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/promise"
)

// TestEvery has all files travel, as a Dockerfile does: one of the same size
// and time may be another.
func TestEvery(t *testing.T) {
	promise.Root(t)
	from, to, l := t.TempDir(), t.TempDir(), newKnown()
	at := time.Unix(7, 0)
	write := func(name string, text []byte) error {
		return errors.Join(os.WriteFile(from+"/"+name, text, 0o644), os.Chtimes(from+"/"+name, at, at))
	}
	large := bytes.Repeat([]byte("large"), small)
	for _, c := range []struct {
		name           string
		do             func() error
		bytes, changes int
	}{
		{"first", func() error {
			return errors.Join(os.Mkdir(from+"/d", 0o755), write("Dockerfile", []byte("FROM a\n")), write("d/x", []byte("1")), write("empty", nil))
		}, 8, 1},
		{"unchanged", func() error { return nil }, 8, 0},
		{"another text of the same size and time", func() error { return write("Dockerfile", []byte("FROM b\n")) }, 8, 1},
		{"one below", func() error { return write("d/x", []byte("2")) }, 8, 1},
		{"longer", func() error { return write("d/x", []byte("23")) }, 9, 1},
		{"a large one", func() error { return write("big", large) }, 9 + len(large), 1},
		{"a large one again", func() error { return nil }, 9 + len(large), 1},
		{"it is gone", func() error { return os.Remove(from + "/big") }, 9, 1},
	} {
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		sent, changes := &counted{bytes: map[uint32]int{}}, 0
		err := transferThrough(t, from, sent, func(ctx context.Context, e *end) error {
			ctx, abort := context.WithCancelCause(ctx)
			e.ctx = ctx
			return (&receiver{every: true, hashes: l, progress: func(int, bool) {}, abort: abort, changing: func() error { changes++; return nil }}).run(ctx, e, to)
		})
		if err != nil {
			t.Fatal(c.name, err)
		}
		sum := 0
		for _, n := range sent.bytes {
			sum += n
		}
		if sum != c.bytes || changes != c.changes {
			t.Errorf("%s: %d bytes travelled for %d changes, want %d for %d", c.name, sum, changes, c.bytes, c.changes)
		}
		if got, want := listing(t, to, true), listing(t, from, true); got != want {
			t.Errorf("%s: there is\n%s\nthe source is\n%s", c.name, got, want)
		}
	}
}
