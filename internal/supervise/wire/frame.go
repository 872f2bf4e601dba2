package wire

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// A frame is this header and its payload:
//
//	0  u32  length of the payload
//	4  u32  id of the request
//	8  u8   type
//	9  u8   number of descriptors that came with it
//	10 u16  0
const headerLen = 12

// Limits of a frame. MaxFiles is what the kernel sends at once at most.
const (
	MaxPayload = 32 << 20
	MaxFiles   = 250
)

// Frame is one message with what belongs to it. The receiver owns Files.
type Frame struct {
	Type    uint8
	ID      uint32
	Payload []byte
	Files   []int
}

// AppendFrame encodes a frame whose payload is m, which may be nil, and with
// which files descriptors will be sent.
func AppendFrame(b []byte, typ uint8, id uint32, files int, m Message) []byte {
	start := len(b)
	b = append(b, make([]byte, headerLen)...)
	if m != nil {
		b = Append(b, m)
	}
	h := b[start:]
	binary.LittleEndian.PutUint32(h, uint32(len(h)-headerLen))
	binary.LittleEndian.PutUint32(h[4:], id)
	h[8], h[9] = typ, uint8(files)
	return b
}

// Parser cuts a stream into frames. Descriptors arrive at latest with the
// first byte of the frame they belong to, and in order.
type Parser struct {
	buf   []byte
	files []int
}

// Feed adds what was received. It takes over the descriptors.
func (p *Parser) Feed(b []byte, files []int) {
	p.buf = append(p.buf, b...)
	p.files = append(p.files, files...)
}

// Next returns the next whole frame, or false if more has to be received.
// The payload is valid until the next call of Feed.
func (p *Parser) Next() (Frame, bool, error) {
	if len(p.buf) < headerLen {
		return Frame{}, false, nil
	}
	n := binary.LittleEndian.Uint32(p.buf)
	if n > MaxPayload || p.buf[9] > MaxFiles || p.buf[10] != 0 || p.buf[11] != 0 {
		return Frame{}, false, ErrMalformed
	}
	end := headerLen + int(n)
	if len(p.buf) < end {
		return Frame{}, false, nil
	}
	count := int(p.buf[9])
	if count > len(p.files) {
		return Frame{}, false, ErrMalformed
	}
	f := Frame{Type: p.buf[8], ID: binary.LittleEndian.Uint32(p.buf[4:]), Payload: p.buf[headerLen:end:end]}
	if count > 0 {
		f.Files = append([]int(nil), p.files[:count]...)
		p.files = p.files[count:]
	}
	p.buf = p.buf[end:]
	if len(p.buf) == 0 {
		p.buf = nil // a large frame's memory is not kept
	}
	return f, true, nil
}

// Close closes descriptors that no frame was returned with.
func (p *Parser) Close() {
	CloseAll(p.files)
	p.files, p.buf = nil, nil
}

// CloseAll closes descriptors.
func CloseAll(files []int) {
	for _, fd := range files {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// ControlLen is the size of the buffer that ParseFiles' input needs.
func ControlLen() int { return unix.CmsgSpace(MaxFiles * 4) }

// ParseFiles takes the descriptors out of a control message.
func ParseFiles(control []byte) ([]int, error) {
	if len(control) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	var files []int
	for i := range messages {
		if messages[i].Header.Level != unix.SOL_SOCKET || messages[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		got, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			CloseAll(files)
			return nil, err
		}
		files = append(files, got...)
	}
	return files, nil
}

// Rest returns what was received of a frame that is not whole yet.
func (p *Parser) Rest() []byte { return p.buf }
