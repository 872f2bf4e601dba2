package rtnl

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

func align(n int) int { return (n + 3) &^ 3 }

// encoder builds netlink messages one behind the other.
type encoder struct{ buf []byte }

// message begins one and returns where; end closes it.
func (e *encoder) message(kind uint16, flags int) int {
	at := len(e.buf)
	e.buf = append(e.buf, make([]byte, unix.NLMSG_HDRLEN)...)
	binary.NativeEndian.PutUint16(e.buf[at+4:], kind)
	binary.NativeEndian.PutUint16(e.buf[at+6:], uint16(flags))
	return at
}

func (e *encoder) end(at int) {
	binary.NativeEndian.PutUint32(e.buf[at:], uint32(len(e.buf)-at))
}

func (e *encoder) raw(b []byte) {
	e.buf = append(e.buf, b...)
	e.pad()
}

func (e *encoder) pad() {
	for len(e.buf)%4 != 0 {
		e.buf = append(e.buf, 0)
	}
}

func (e *encoder) attr(kind uint16, value []byte) {
	e.buf = binary.NativeEndian.AppendUint16(e.buf, uint16(unix.SizeofRtAttr+len(value)))
	e.buf = binary.NativeEndian.AppendUint16(e.buf, kind)
	e.raw(value)
}

func (e *encoder) u32(kind uint16, v uint32) {
	e.attr(kind, binary.NativeEndian.AppendUint32(nil, v))
}

func (e *encoder) u8(kind uint16, v uint8) { e.attr(kind, []byte{v}) }

func (e *encoder) str(kind uint16, s string) { e.attr(kind, append([]byte(s), 0)) }

// nest begins an attribute that holds attributes; endNest closes it.
func (e *encoder) nest(kind uint16) int {
	at := len(e.buf)
	e.buf = binary.NativeEndian.AppendUint16(e.buf, 0)
	e.buf = binary.NativeEndian.AppendUint16(e.buf, kind)
	return at
}

func (e *encoder) endNest(at int) {
	binary.NativeEndian.PutUint16(e.buf[at:], uint16(len(e.buf)-at))
}

// ifinfo is struct ifinfomsg.
func (e *encoder) ifinfo(family uint8, index int, flags, change uint32) {
	e.buf = append(e.buf, family, 0, 0, 0)
	e.buf = binary.NativeEndian.AppendUint32(e.buf, uint32(index))
	e.buf = binary.NativeEndian.AppendUint32(e.buf, flags)
	e.buf = binary.NativeEndian.AppendUint32(e.buf, change)
}

// attributes calls fn for each attribute of b, without the flag bits of its type.
func attributes(b []byte, fn func(kind uint16, value []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		l := int(binary.NativeEndian.Uint16(b))
		if l < unix.SizeofRtAttr || l > len(b) {
			return
		}
		fn(binary.NativeEndian.Uint16(b[2:])&^uint16(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:l])
		b = b[min(align(l), len(b)):]
	}
}

func text(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

func u32of(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}
