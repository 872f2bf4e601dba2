package initproto

// Name is argv[0] of init; under another name the binary reaps as docker-init.
const Name = "wherry-init"

// Waiting is argv[1] of an init that was forked before there was a program for
// it, with /dev/null as its streams. Its first packet is an Adoption, which
// carries the descriptors that it would have been born with: the streams, then
// the passed files and, if there are, the namespace of process numbers and the
// control group that it is to be born in. The end of the stream in its place means that it is not needed.
const Waiting = "waiting"

// AdoptFiles is how many descriptors fit into that packet.
const AdoptFiles = 253

// The descriptors that init is born with beside 0, 1 and 2.
const (
	ControlFD = 3 // one end of a SOCK_SEQPACKET pair
	BinaryFD  = 4 // init's own binary, only needed for the exec
	FirstFile = 5 // passed files: index i is descriptor FirstFile+i
)

// MessageSize bounds every message of init; the program travels in packets of
// at most PacketSize after a first packet of 4 bytes with its length and 4
// with the number of passed files.
const (
	MessageSize = 4096
	PacketSize  = 32 << 10
)

// Kinds of message from init to its parent. After KindExec the end of the
// stream means that the user's program runs.
const (
	KindError    uint8 = 'E' // a Failure; init exits after it
	KindBorn     uint8 = 'B' // one that waited goes on in a new process, see Born
	KindTerminal uint8 = 'T' // the pty's master is attached
	KindHeld     uint8 = 'H' // waits at CodeHold for one byte
	KindExec     uint8 = 'X' // all is applied, exec is next
)

// Failure is why init gave up.
type Failure struct {
	Step    string // the operation, for people who look for the cause
	Message string // what users read; "" = Step and errno
	Errno   uint32
}

// Encode gives the message, cut to MessageSize.
func (f *Failure) Encode() []byte {
	step, text := f.Step, f.Message
	if len(step) > 256 {
		step = step[:256]
	}
	if room := MessageSize - 16 - len(step); len(text) > room {
		text = text[:room]
	}
	w := writer{make([]byte, 0, len(step)+len(text)+16)}
	w.u8(KindError)
	w.u32(f.Errno)
	w.str(step)
	w.str(text)
	return w.b
}

// DecodeFailure reads what Encode wrote.
func DecodeFailure(b []byte) (*Failure, error) {
	r := reader{b: b}
	if r.u8() != KindError {
		return nil, ErrMalformed
	}
	f := &Failure{Errno: r.u32(), Step: r.str(), Message: r.str()}
	if r.bad || len(r.b) != 0 {
		return nil, ErrMalformed
	}
	return f, nil
}

// Header is the first packet to init.
func Header(program []byte, files int) []byte {
	var w writer
	w.u32(uint32(len(program)))
	w.u32(uint32(files))
	return w.b
}

// DecodeHeader gives the length of the program and the number of files.
func DecodeHeader(b []byte) (length, files int, err error) {
	r := reader{b: b}
	n, f := r.u32(), r.u32()
	if r.bad || len(r.b) != 0 || n > maxProgram || f > 1024 {
		return 0, 0, ErrMalformed
	}
	return int(n), int(f), nil
}

// Adoption is the first packet to an init that waited.
type Adoption struct {
	Clone   uint64 // the CLONE_NEW* flags of the namespaces to be born in
	Unshare uint64 // of those that are made afterwards
	Numbers bool   // a descriptor is the namespace of process numbers to be born in
	Group   bool   // the last descriptor is the control group to be born in
}

// Encode gives the packet.
func (a Adoption) Encode() []byte {
	var w writer
	w.u64(a.Clone)
	w.u64(a.Unshare)
	for _, b := range []bool{a.Numbers, a.Group} {
		v := uint8(0)
		if b {
			v = 1
		}
		w.u8(v)
	}
	return w.b
}

// DecodeAdoption reads what Encode wrote.
func DecodeAdoption(b []byte) (Adoption, error) {
	r := reader{b: b}
	a := Adoption{Clone: r.u64(), Unshare: r.u64(), Numbers: r.u8() == 1, Group: r.u8() == 1}
	if r.bad || len(r.b) != 0 {
		return Adoption{}, ErrMalformed
	}
	return a, nil
}

// Born is the first message of the process that one which waited goes on in: its
// number as the receiver, its parent, sees it.
func Born(pid int) []byte {
	var w writer
	w.u8(KindBorn)
	w.u32(uint32(pid))
	return w.b
}

// DecodeBorn reads what Born wrote.
func DecodeBorn(b []byte) (pid int, err error) {
	r := reader{b: b}
	if r.u8() != KindBorn {
		return 0, ErrMalformed
	}
	pid = int(r.u32())
	if r.bad || len(r.b) != 0 || pid <= 0 {
		return 0, ErrMalformed
	}
	return pid, nil
}
