// Package initproto owns the language between whoever compiles a start and
// wherry-init: a list of operations, encoded without reflection so that init
// stays small, and the messages that init sends back.
//
//	program   = { op u8, length u32, payload }
//	string    = length u32, bytes
//	strings   = count u32, { string }
//	integers  = little endian; u64 for flags, u32 for numbers
//
// Both ends come from one build, so there is no version; a program that does
// not decode exactly is refused as a whole.
package initproto

import "errors"

// ErrMalformed is the only decoding error: what was read is not a program.
var ErrMalformed = errors.New("malformed init program")

// maxProgram bounds a program: argument list and environment of the largest
// exec the kernel takes, and room for the rest.
const maxProgram = 8 << 20

type writer struct{ b []byte }

func (w *writer) u8(v uint8) { w.b = append(w.b, v) }

func (w *writer) bool(v bool) {
	if v {
		w.u8(1)
	} else {
		w.u8(0)
	}
}

func (w *writer) u32(v uint32) {
	w.b = append(w.b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24))
}

func (w *writer) u64(v uint64) {
	w.u32(uint32(v))
	w.u32(uint32(v >> 32))
}

func (w *writer) str(s string) {
	w.u32(uint32(len(s)))
	w.b = append(w.b, s...)
}

func (w *writer) strs(list []string) {
	w.u32(uint32(len(list)))
	for _, s := range list {
		w.str(s)
	}
}

func (w *writer) u32s(list []uint32) {
	w.u32(uint32(len(list)))
	for _, v := range list {
		w.u32(v)
	}
}

// reader decodes with a sticky error: after the first malformed field every
// read gives zero values, and done reports it.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n uint32) []byte {
	if r.bad || uint64(n) > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) u8() uint8 {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *reader) bool() bool {
	v := r.u8()
	if v > 1 {
		r.bad = true
	}
	return v == 1
}

func (r *reader) u32() uint32 {
	p := r.take(4)
	if p == nil {
		return 0
	}
	return uint32(p[0]) | uint32(p[1])<<8 | uint32(p[2])<<16 | uint32(p[3])<<24
}

func (r *reader) u64() uint64 {
	lo := r.u32()
	return uint64(lo) | uint64(r.u32())<<32
}

func (r *reader) str() string { return string(r.take(r.u32())) }

// count reads a list length of elements that take at least size bytes each, so
// that a lying length cannot make the reader allocate more than it was sent.
func (r *reader) count(size int) int {
	n := r.u32()
	if uint64(n)*uint64(size) > uint64(len(r.b)) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *reader) strs() []string {
	n := r.count(4)
	if n == 0 {
		return nil
	}
	list := make([]string, 0, n)
	for range n {
		list = append(list, r.str())
	}
	return list
}

func (r *reader) u32s() []uint32 {
	n := r.count(4)
	if n == 0 {
		return nil
	}
	list := make([]uint32, 0, n)
	for range n {
		list = append(list, r.u32())
	}
	return list
}
