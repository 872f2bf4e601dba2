package wire

import (
	"encoding/binary"
	"errors"
)

// ErrMalformed says that a peer sent something that is no message.
var ErrMalformed = errors.New("malformed message")

// Coder writes fields one behind the other, or reads them again in the same
// order: one description of a message serves both ways. Numbers are little
// endian, strings and lists have their length in front.
type Coder struct {
	b       []byte
	reading bool
	bad     bool

	// State is the StateVersion of what is carried; 0 outside of an upgrade.
	State uint8
}

// Message is something that a Coder can carry.
type Message interface{ Fields(c *Coder) }

// Append encodes m behind b.
func Append(b []byte, m Message) []byte {
	c := Coder{b: b}
	m.Fields(&c)
	return c.b
}

// Decode reads m, which must fill b exactly. Strings and slices of m are
// copies, they do not refer to b.
func Decode(b []byte, m Message) error {
	c := Coder{b: b, reading: true}
	m.Fields(&c)
	if c.bad || len(c.b) != 0 {
		return ErrMalformed
	}
	return nil
}

// Reading reports whether fields are being set rather than written.
func (c *Coder) Reading() bool { return c.reading }

// take returns the next n bytes, or nil when there are not as many.
func (c *Coder) take(n int) []byte {
	if c.bad || n < 0 || n > len(c.b) {
		c.bad = true
		return nil
	}
	b := c.b[:n]
	c.b = c.b[n:]
	return b
}

// U8 carries one byte.
func (c *Coder) U8(v *uint8) {
	if !c.reading {
		c.b = append(c.b, *v)
	} else if b := c.take(1); b != nil {
		*v = b[0]
	}
}

// U16 carries a 16-bit number.
func (c *Coder) U16(v *uint16) {
	if !c.reading {
		c.b = binary.LittleEndian.AppendUint16(c.b, *v)
	} else if b := c.take(2); b != nil {
		*v = binary.LittleEndian.Uint16(b)
	}
}

// I64 carries any integer.
func (c *Coder) I64(v *int64) {
	if !c.reading {
		c.b = binary.LittleEndian.AppendUint64(c.b, uint64(*v))
	} else if b := c.take(8); b != nil {
		*v = int64(binary.LittleEndian.Uint64(b))
	}
}

// Int carries an int.
func (c *Coder) Int(v *int) {
	n := int64(*v)
	c.I64(&n)
	*v = int(n)
}

// Bool carries a bool.
func (c *Coder) Bool(v *bool) {
	var n uint8
	if *v {
		n = 1
	}
	c.U8(&n)
	if n > 1 {
		c.bad = true
	}
	*v = n == 1
}

// count carries the length of what follows; each element takes at least min
// bytes, so that a false length cannot make the reader allocate much.
func (c *Coder) count(n, min int) int {
	if !c.reading {
		c.b = binary.LittleEndian.AppendUint32(c.b, uint32(n))
		return n
	}
	b := c.take(4)
	if b == nil {
		return 0
	}
	got := int64(binary.LittleEndian.Uint32(b))
	if got*int64(min) > int64(len(c.b)) {
		c.bad = true
		return 0
	}
	return int(got)
}

// Bytes carries a byte slice; an empty one arrives as nil.
func (c *Coder) Bytes(v *[]byte) {
	n := c.count(len(*v), 1)
	if !c.reading {
		c.b = append(c.b, *v...)
	} else if b := c.take(n); len(b) > 0 {
		*v = append([]byte(nil), b...)
	}
}

// Str carries a string.
func (c *Coder) Str(v *string) {
	n := c.count(len(*v), 1)
	if !c.reading {
		c.b = append(c.b, *v...)
	} else {
		*v = string(c.take(n))
	}
}

// List carries a slice, each element by f; an empty one arrives as nil. min
// is the least number of bytes that f can read.
func List[T any](c *Coder, v *[]T, min int, f func(*T)) {
	n := c.count(len(*v), min)
	if c.reading && n > 0 {
		*v = make([]T, n)
	}
	for i := 0; i < n && !c.bad; i++ {
		f(&(*v)[i])
	}
}

// Maybe carries a pointer that can be nil.
func Maybe[T any](c *Coder, v **T, f func(*T)) {
	there := *v != nil
	c.Bool(&there)
	if !there {
		return
	}
	if c.reading {
		*v = new(T)
	}
	f(*v)
}

// StrMap carries a map of strings.
func (c *Coder) StrMap(v *map[string]string) {
	type pair struct{ k, v string }
	var list []pair
	for k, s := range *v {
		list = append(list, pair{k, s})
	}
	List(c, &list, 8, func(p *pair) { c.Str(&p.k); c.Str(&p.v) })
	if c.reading && len(list) > 0 {
		*v = make(map[string]string, len(list))
		for _, p := range list {
			(*v)[p.k] = p.v
		}
	}
}
