package keeper

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/internal/supervise/wire"
)

func TestDetachKeys(t *testing.T) {
	for _, tc := range []struct {
		keys, typed, pass string
		detach            bool
	}{
		{"pq", "hello", "hello", false},
		{"pq", "apb", "apb", false},
		{"pq", "apqb", "a", true},
		{"pq", "ppq", "p", true},
		{"pq", "ap", "ap", false},
		{"aab", "aaab", "a", true},
		{"abab", "abaabab", "aba", true},
		{"abab", "abac", "abac", false},
		{"x", "axb", "a", true},
	} {
		for _, step := range []int{1, 2, 100} {
			m := matcher{keys: []byte(tc.keys)}
			var pass []byte
			detach := false
			for i := 0; i < len(tc.typed) && !detach; i += step {
				var p []byte
				p, detach = m.filter([]byte(tc.typed[i:min(i+step, len(tc.typed))]))
				pass = append(pass, p...)
			}
			pass = append(pass, m.rest()...)
			if string(pass) != tc.pass || detach != tc.detach {
				t.Errorf("%q typed by %d with keys %q: passed %q, detach %v", tc.typed, step, tc.keys, pass, detach)
			}
		}
	}
}

// TestDetachKeysAgainstSearch compares with a search in the whole text.
func TestDetachKeysAgainstSearch(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	word := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = "ab"[r.IntN(2)]
		}
		return b
	}
	for range 5000 {
		keys, typed := word(1+r.IntN(4)), word(r.IntN(12))
		m := matcher{keys: keys}
		pass, detach := m.filter(typed)
		pass = append(bytes.Clone(pass), m.rest()...)
		want, _, found := bytes.Cut(typed, keys)
		if detach != found || !bytes.Equal(pass, want) {
			t.Fatalf("keys %s, typed %s: %s %v, want %s %v", keys, typed, pass, detach, want, found)
		}
	}
}

func TestStateTravels(t *testing.T) {
	s := &state{
		lock: 1, listen: 2, init: 3, engine: 4, initHash: "i", build: "b", id: 5, received: []byte("r"),
		procs: []procState{{
			rec: wire.Process{Key: wire.Key{Container: "c"}, PID: 6, Terminal: true}, fds: [4]int{7, -1, 8, 9}, foreign: true,
			exit: &wire.Exit{Code: 10}, reported: true, saved: true, ending: true, input: []byte("in"),
			logs: [2]logState{{[]byte("half"), true, 11}, {}},
		}},
		clients: []clientState{{
			key: wire.Key{Container: "c"}, attached: true, typing: true, lingering: true, fd: 12, matched: 1,
			meta: wire.Client{Token: "t", DetachKeys: []byte("k")}, out: []byte("out"), finishing: "eof",
		}},
	}
	got := &state{}
	if err := wire.Decode(wire.Append(nil, s), got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(s, got) {
		t.Errorf("%+v", got)
	}
}

func TestDamagedExitsAreDropped(t *testing.T) {
	dir := t.TempDir()
	k, err := newKeeper(dir, "b", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer k.loop.close()
	defer k.devnull.Close()
	if err := k.loadExits(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"good", "bad"} {
		p := &process{k: k, key: wire.Key{Container: name}, exit: &wire.Exit{Code: 3}, reported: true}
		k.procs[p.key] = p
		p.saveExit()
	}
	bad := filepath.Join(dir, "exits", "bad")
	if err := os.WriteFile(bad, []byte("xx"), 0o600); err != nil {
		t.Fatal(err)
	}
	k.procs = map[wire.Key]*process{}
	if err := k.loadExits(); err != nil {
		t.Fatal(err)
	}
	if len(k.procs) != 1 || k.procs[wire.Key{Container: "good"}].exit.Code != 3 {
		t.Errorf("%v", k.procs)
	}
}

func TestKeysAreNames(t *testing.T) {
	k := &Keeper{}
	for _, key := range []wire.Key{{}, {Container: "../x"}, {Container: "a", Exec: "b/c"}, {Container: strings.Repeat("x", 256)}} {
		if err := k.startable(key); err == nil || !strings.Contains(err.Error(), "bad key") {
			t.Errorf("%q: %v", key, err)
		}
	}
}

func TestTimers(t *testing.T) {
	l, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	var got []string
	l.cancel(l.after(0, func() { got = append(got, "cancelled") }))
	l.after(20*time.Millisecond, func() { got = append(got, "second"); l.stopped = true })
	l.after(time.Millisecond, func() {
		got = append(got, "first")
		l.post(func() { got = append(got, "posted") })
	})
	if err := l.run(); err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprint(got); s != "[first posted second]" {
		t.Error(s)
	}
}
