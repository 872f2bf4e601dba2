package wire

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// fill sets every field to something that is not zero, so that a field that a
// message forgets to carry is noticed.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString(fmt.Sprint("s", *n))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		v.SetUint(uint64(*n % 256))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(k, n)
		fill(e, n)
		v.SetMapIndex(k, e)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	default:
		panic(v.Type().String())
	}
}

func messages() []Message {
	return []Message{
		&Hello{}, &Welcome{}, &Upgrade{}, &Text{}, &Failure{}, &Target{}, &Client{}, &Start{},
		&Exit{}, &End{}, &LogError{}, &Process{}, &Processes{},
	}
}

func TestEveryFieldTravels(t *testing.T) {
	for _, m := range messages() {
		t.Run(fmt.Sprintf("%T", m), func(t *testing.T) {
			got := reflect.New(reflect.TypeOf(m).Elem()).Interface().(Message)
			if err := Decode(Append(nil, m), got); err != nil { // all zero
				t.Fatal(err)
			}
			if diff := cmp.Diff(m, got); diff != "" {
				t.Error(diff)
			}
			n := 0
			fill(reflect.ValueOf(m).Elem(), &n)
			b := Append(nil, m)
			if err := Decode(b, got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(m, got); diff != "" {
				t.Error(diff)
			}
			for i := range b { // cut short anywhere
				if err := Decode(b[:i], got); err == nil {
					t.Fatalf("%d of %d bytes were enough", i, len(b))
				}
			}
		})
	}
}

func TestFrames(t *testing.T) {
	var stream []byte
	for i := range 5 {
		stream = AppendFrame(stream, uint8(i+1), uint32(i), 0, &Text{string(bytes.Repeat([]byte{'x'}, i*1000))})
	}
	for _, step := range []int{1, 7, 1000, len(stream)} {
		var p Parser
		n := 0
		for i := 0; i < len(stream); i += step {
			p.Feed(stream[i:min(i+step, len(stream))], nil)
			for {
				f, ok, err := p.Next()
				if err != nil {
					t.Fatal(err)
				}
				if !ok {
					break
				}
				var m Text
				if err := Decode(f.Payload, &m); err != nil || f.Type != uint8(n+1) || f.ID != uint32(n) || len(m.S) != n*1000 {
					t.Fatalf("frame %d: %+v, %v", n, f, err)
				}
				n++
			}
		}
		if n != 5 {
			t.Errorf("%d frames", n)
		}
	}
}

func TestDescriptorsGoWithTheirFrame(t *testing.T) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	var p Parser
	b := AppendFrame(nil, TypeAttach, 1, 0, nil)
	b = AppendFrame(b, TypeAttach, 2, 2, nil)
	p.Feed(b[:len(b)-1], pipe[:])
	f, ok, err := p.Next()
	if err != nil || !ok || len(f.Files) != 0 {
		t.Fatalf("%+v %v %v", f, ok, err)
	}
	if _, ok, _ := p.Next(); ok {
		t.Fatal("a frame that is not whole")
	}
	p.Feed(b[len(b)-1:], nil)
	f, ok, err = p.Next()
	if err != nil || !ok || len(f.Files) != 2 || f.Files[0] != pipe[0] {
		t.Fatalf("%+v %v %v", f, ok, err)
	}
	CloseAll(f.Files)
	p.Feed(AppendFrame(nil, TypeAttach, 3, 1, nil), nil)
	if _, _, err := p.Next(); err == nil {
		t.Error("a descriptor that is missing was not noticed")
	}
	f2, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f2.Close()
	dup, err := unix.Dup(int(f2.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	p.Feed(nil, []int{dup})
	p.Close()
	if err := unix.Close(dup); err == nil {
		t.Error("Close left a descriptor open")
	}
}

// FuzzDecode: anything can come, and what is taken is what would be sent.
func FuzzDecode(f *testing.F) {
	for i, m := range messages() {
		n := 0
		fill(reflect.ValueOf(m).Elem(), &n)
		f.Add(uint8(i), Append(nil, m))
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		list := messages()
		m := list[int(kind)%len(list)]
		if Decode(b, m) != nil {
			return
		}
		again := messages()[int(kind)%len(list)]
		if err := Decode(Append(nil, m), again); err != nil {
			t.Fatalf("%+v: %v", m, err)
		}
		if diff := cmp.Diff(m, again); diff != "" {
			t.Error(diff)
		}
	})
}

// FuzzFrames: whatever comes, the parser neither fails otherwise than with its
// error nor returns more than it got.
func FuzzFrames(f *testing.F) {
	f.Add(AppendFrame(AppendFrame(nil, 1, 2, 0, &Text{"abc"}), 3, 4, 0, nil), 5)
	f.Add([]byte{255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0}, 1)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		cut = max(0, min(cut, len(b)))
		var p Parser
		total := 0
		for _, part := range [][]byte{b[:cut], b[cut:]} {
			p.Feed(part, nil)
			for {
				f, ok, err := p.Next()
				if err != nil {
					return
				}
				if !ok {
					break
				}
				total += headerLen + len(f.Payload)
			}
		}
		if total+len(p.Rest()) != len(b) {
			t.Errorf("%d and %d of %d bytes", total, len(p.Rest()), len(b))
		}
	})
}
