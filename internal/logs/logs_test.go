package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.FixedZone("", 3600))

func target(t *testing.T) Target {
	return Target{Driver: DriverJSONFile, Path: filepath.Join(t.TempDir(), "log")}
}

func writer(t *testing.T, to Target) *Writer {
	t.Helper()
	w, err := NewWriter(to, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func read(t *testing.T, from Target, o ReadOptions) []string {
	t.Helper()
	var got []string
	err := Read(t.Context(), from, o, func(e Entry) error {
		got = append(got, string(e.Line))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestFormat(t *testing.T) {
	to := target(t)
	to.Attrs = map[string]string{"tag": "a<b", "env": "x"}
	w := writer(t, to)
	if err := w.Copy(Stdout, []byte("hi\n\ttab \"q\" \\ <&> \x01 \u2028 é \xff\r\n\nrest"), at); err != nil {
		t.Fatal(err)
	}
	if err := w.End(Stdout, at); err != nil {
		t.Fatal(err)
	}
	if err := w.Copy(Stderr, []byte("oops\n"), at.Add(99*time.Nanosecond)); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(to.Path)
	if err != nil {
		t.Fatal(err)
	}
	const tail = `,"stream":"stdout","attrs":{"env":"x","tag":"a\u003cb"},"time":"2026-01-02T02:04:05.6789Z"}` + "\n"
	want := `{"log":"hi\n"` + tail +
		`{"log":"\u0009tab \"q\" \\ \u003c\u0026\u003e \u0001 \u2028 é \ufffd\r\n"` + tail +
		`{"log":"\n"` + tail +
		`{"log":"rest"` + tail +
		`{"log":"oops\n","stream":"stderr","attrs":{"env":"x","tag":"a\u003cb"},"time":"2026-01-02T02:04:05.678900099Z"}` + "\n"
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

// FuzzText checks both directions against encoding/json.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "plain\n", "\x00\x1f\x7f", "\xff\xfe\xc3", "\u2028\u2029<>&\"\\/", "😀é", "\xed\xa0\x80"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, s []byte) {
		line := appendEntry(nil, Stderr, s, true, encodeAttrs(map[string]string{string(s): string(s)}), appendStamp(nil, at))
		var want struct {
			Log, Stream string
			Attrs       map[string]string
			Time        time.Time
		}
		if err := json.Unmarshal(line, &want); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if valid := string(bytes.ToValidUTF8(s, nil)); utf8.Valid(s) && want.Log != valid+"\n" {
			t.Errorf("%q became %q", s, want.Log)
		}
		var p lineParser
		got, err := p.parse(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if string(got.Line) != want.Log || got.Stream != want.Stream || !got.Time.Equal(want.Time) || got.Partial {
			t.Errorf("%q: %+v, want %+v", line, got, want)
		}
		if diff := cmp.Diff(want.Attrs, got.Attrs); diff != "" {
			t.Error(diff)
		}
	})
}

// FuzzParse: what encoding/json takes as an entry is taken alike, and nothing
// makes the parser fail in another way than with its error.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"log":"a\ud83d\ude00\ud800x\n","stream":"stdout","time":"2026-01-02T02:04:05Z"}`))
	f.Add([]byte(` { "time" : "2026-01-02T02:04:05Z" , "new":{"a":[1,2,{"b":null}],"c":[]},"log" : "\/\b\f\t" } `))
	f.Add([]byte(`{"log":"x`))
	f.Add([]byte(`{"attrs":{"a":"b"},"time":"2026-01-02T02:04:05Z","attrs":{}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var p lineParser
		got, err := p.parse(line)
		if err != nil {
			return
		}
		again := appendEntry(nil, Stdout, got.Line, false, nil, appendStamp(nil, got.Time))
		back, err := new(lineParser).parse(again[:len(again)-1])
		if err != nil || !bytes.Equal(back.Line, bytes.ToValidUTF8(got.Line, []byte("\ufffd"))) && utf8.Valid(got.Line) {
			t.Errorf("%q: %q, %v", again, back.Line, err)
		}
	})
}

func TestLongLines(t *testing.T) {
	for _, n := range []int{MaxLine - 1, MaxLine, MaxLine + 1, 3*MaxLine + 5} {
		for _, chunk := range []int{1 << 20, 1000, 4096} {
			t.Run(fmt.Sprintf("%d by %d", n, chunk), func(t *testing.T) {
				to := target(t)
				w := writer(t, to)
				line := []byte(strings.Repeat("x", n) + "\nnext\n")
				for i, b := range slices.Collect(slices.Chunk(line, chunk)) {
					if err := w.Copy(Stdout, b, at.Add(time.Duration(i))); err != nil {
						t.Fatal(err)
					}
				}
				got := read(t, to, ReadOptions{Tail: -1})
				if strings.Join(got, "") != string(line) {
					t.Error("the text is another one")
				}
				for i, s := range got[:len(got)-2] {
					if len(s) != MaxLine {
						t.Errorf("piece %d has %d bytes", i, len(s))
					}
				}
				if got[len(got)-1] != "next\n" {
					t.Errorf("last is %q", got[len(got)-1])
				}
			})
		}
	}
}

func TestTornLineIsMended(t *testing.T) {
	to := target(t)
	w := writer(t, to)
	if err := w.Write(Stdout, []byte("whole"), at, false); err != nil {
		t.Fatal(err)
	}
	w.Close()
	f, err := os.OpenFile(to.Path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"log":"to`)
	f.Close()
	w = writer(t, to)
	if err := w.Write(Stdout, []byte("next"), at, false); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"whole\n", "next\n"}, read(t, to, ReadOptions{Tail: -1})); diff != "" {
		t.Error(diff)
	}
}

func TestFullDisk(t *testing.T) {
	w := writer(t, Target{Driver: DriverJSONFile, Path: "/dev/full"})
	if err := w.Copy(Stdout, []byte("a\nb\nc"), at); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if w.Dropped() != 2 {
		t.Errorf("%d lines dropped, want 2", w.Dropped())
	}
}

func numbers(from, to int) []string {
	var list []string
	for i := from; i < to; i++ {
		list = append(list, strconv.Itoa(i)+"\n")
	}
	return list
}

func fill(t *testing.T, w *Writer, from, to int) {
	t.Helper()
	for i, s := range numbers(from, to) {
		if err := w.Copy(Stdout, []byte(s), at.Add(time.Duration(from+i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTail(t *testing.T) {
	for _, compress := range []bool{false, true} {
		to := target(t)
		to.MaxSize, to.MaxFile, to.Compress = 2000, 4, compress
		w := writer(t, to)
		fill(t, w, 0, 100)
		if w.zipped != nil {
			w.zipped.done <- <-w.zipped.done // wait for the last compression
		}
		names, _ := filepath.Glob(to.Path + "*")
		if len(names) != 4 {
			t.Fatalf("files %v, want 4", names)
		}
		for _, name := range names {
			if st, _ := os.Stat(name); st.Size() > 2100 {
				t.Errorf("%s has %d bytes", name, st.Size())
			}
		}
		for _, n := range []int{0, 1, 2, 25, 26, 27, 60, 1000} {
			got := read(t, to, ReadOptions{Tail: n})
			want := n
			if n == 1000 {
				want = len(read(t, to, ReadOptions{Tail: -1}))
			}
			if diff := cmp.Diff(numbers(100-want, 100), got); diff != "" {
				t.Errorf("compress %v, tail %d: %s", compress, n, diff)
			}
		}
	}
}

func TestSinceUntil(t *testing.T) {
	to := target(t)
	fill(t, writer(t, to), 0, 100)
	got := read(t, to, ReadOptions{Tail: -1, Since: at.Add(10 * time.Second), Until: at.Add(20 * time.Second)})
	if diff := cmp.Diff(numbers(10, 21), got); diff != "" {
		t.Error(diff)
	}
}

// TestFollow reads while the file is rotated all the time.
func TestFollow(t *testing.T) {
	for _, tc := range []struct {
		name string
		size int64
		n    int
		zip  bool
	}{{"one file", 0, 1, false}, {"rotated", 8000, 5, false}, {"compressed", 8000, 5, true}} {
		t.Run(tc.name, func(t *testing.T) {
			to := target(t)
			to.MaxSize, to.MaxFile, to.Compress = tc.size, tc.n, tc.zip
			w := writer(t, to)
			const all = 1000
			done := make(chan struct{})
			failed := make(chan error, 1)
			go func() {
				defer close(done)
				for i := range all {
					if err := w.Copy(Stdout, []byte(strconv.Itoa(i)+"\n"), time.Now()); err != nil {
						failed <- err
					}
					time.Sleep(20 * time.Microsecond)
				}
			}()
			got := read(t, to, ReadOptions{Tail: -1, Follow: true, Done: done})
			select {
			case err := <-failed:
				t.Fatal(err)
			default:
			}
			if diff := cmp.Diff(numbers(0, all), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFollowEmptied(t *testing.T) {
	to := target(t)
	to.MaxSize, to.MaxFile = 300, 1
	w := writer(t, to)
	next, done := make(chan struct{}, 1), make(chan struct{})
	go func() {
		for i := range 50 {
			if err := w.Copy(Stdout, []byte(strconv.Itoa(i)+"\n"), at); err != nil {
				t.Error(err)
			}
			<-next
		}
		close(done)
	}()
	var got []string
	err := Read(t.Context(), to, ReadOptions{Tail: -1, Follow: true, Done: done}, func(e Entry) error {
		got = append(got, string(e.Line))
		next <- struct{}{}
		return nil
	})
	if diff := cmp.Diff(numbers(0, 50), got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

func TestFollowEndsWithContext(t *testing.T) {
	to := target(t)
	fill(t, writer(t, to), 0, 3)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := Read(ctx, to, ReadOptions{Tail: -1, Follow: true}, func(Entry) error {
		if n++; n == 3 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || n != 3 {
		t.Errorf("%d entries, %v", n, err)
	}
}

func BenchmarkCopy(b *testing.B) {
	w, err := NewWriter(Target{Driver: DriverJSONFile, Path: filepath.Join(b.TempDir(), "log"), MaxSize: 64 << 20, MaxFile: 1}, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	data := bytes.Repeat([]byte("a line of some ordinary length, as programs print it\n"), 1000)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := w.Copy(Stdout, data, at); err != nil {
			b.Fatal(err)
		}
	}
}
