package initproto

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func sample() []Op {
	return []Op{
		{Code: CodeCgroup, Numbers: []uint32{1, 2}},
		{Code: CodeEnter, Number: 3, Flags: 1 << 30},
		{Code: CodeUnshare, Flags: 7},
		{Code: CodeMount, Mount: &Mount{
			Kind: MountBind, Target: "/t", Strict: TargetStrict, Type: "bind", Source: "/s", Options: []string{"a=b", "c"}, Number: 4,
			Recursive: true, Attr: 5, Clear: 6, SubAttr: 7, Spread: 8, SpreadAll: true, FSType: 9, Optional: true,
		}},
		{Code: CodeRoot, Root: &Root{Overlay: true, Base: "/b", Data: "d", Paths: []string{"/p"}, Tree: 2}},
		{Code: CodeAttach},
		{Code: CodeDevice, Device: &Device{Path: "/dev/x", Mode: 1, Dev: 2, UID: 3, GID: 4}},
		{Code: CodeLinks, Strings: []string{"a", "b"}},
		{Code: CodeAttr, Text: "/x", Flags: 1},
		{Code: CodeConsole, Number: 1},
		{Code: CodeHostname, Text: "h"},
		{Code: CodeSysctl, Strings: []string{"net/x", "1"}},
		{Code: CodeMask, Strings: []string{"/proc/x"}},
		{Code: CodeHold},
		{Code: CodeProcess, Process: &Process{
			Args: []string{"sh"}, Env: []string{"A=b"}, Cwd: "/", Lookup: true, User: "u", UID: 1, GID: 2, GIDs: []uint32{3}, Groups: []string{"g"},
			Umask: 18, Bounding: 1, Permitted: 2, Effective: 3, Inheritable: 4, Ambient: 5, NoNewPrivs: true,
			Rlimits: []Rlimit{{1, 2, 3}}, AppArmor: "a", SELinux: "s", Keyring: "k", Seccomp: bytes.Repeat([]byte{1}, 16), SeccompFlags: 9,
		}},
	}
}

func encode(ops []Op) []byte {
	var b []byte
	for i := range ops {
		b = Append(b, &ops[i])
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	want := sample()
	got, err := Decode(encode(want))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
}

func TestMalformed(t *testing.T) {
	good := encode(sample())
	whole := map[int]bool{}
	for at := 0; at < len(good); at += 5 + int(good[at+1]) + int(good[at+2])<<8 {
		whole[at] = true
	}
	for n := range len(good) {
		// A cut between two operations is a shorter program, and init says so itself.
		if _, err := Decode(good[:n]); !whole[n] && !errors.Is(err, ErrMalformed) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	for name, b := range map[string][]byte{
		"unknown operation": {200, 0, 0, 0, 0}, "left over": {byte(CodeAttach), 1, 0, 0, 0, 9},
		"lying count":   {byte(CodeMask), 4, 0, 0, 0, 255, 255, 255, 255},
		"after process": append(encode(sample()), byte(CodeAttach), 0, 0, 0, 0),
		"odd pairs":     Append(nil, &Op{Code: CodeLinks, Strings: []string{"one"}}),
		"no arguments":  Append(nil, &Op{Code: CodeProcess, Process: &Process{}}),
	} {
		if _, err := Decode(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzDecode: whatever decodes is encoded to the same bytes again, and nothing panics.
func FuzzDecode(f *testing.F) {
	f.Add(encode(sample()))
	f.Add([]byte{byte(CodeMask), 4, 0, 0, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		ops, err := Decode(b)
		if err != nil {
			return
		}
		if !bytes.Equal(encode(ops), b) {
			t.Fatal("not the same again")
		}
	})
}

func TestFailure(t *testing.T) {
	long := Failure{Step: string(make([]byte, 1000)), Message: string(make([]byte, 10000)), Errno: 2}
	if n := len(long.Encode()); n > MessageSize {
		t.Fatalf("%d bytes", n)
	}
	if _, err := DecodeFailure(long.Encode()); err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeFailure([]byte{'E', 1}); !errors.Is(err, ErrMalformed) {
		t.Fatal(err)
	}
}
