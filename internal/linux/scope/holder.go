package scope

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Holder is a process that does nothing until its standard input ends, also
// when this process does.
type Holder struct {
	PID   int
	input *os.File
	once  sync.Once
	cmd   *exec.Cmd
}

// holderCode reads one byte from descriptor 0 and exits.
var holderCode = map[string][]byte{
	"amd64": {
		0x31, 0xc0, // xor eax, eax (read)
		0x31, 0xff, // xor edi, edi
		0x48, 0x89, 0xe6, // mov rsi, rsp
		0xba, 1, 0, 0, 0, // mov edx, 1
		0x0f, 0x05, // syscall
		0xb8, 60, 0, 0, 0, // mov eax, 60 (exit)
		0x31, 0xff, // xor edi, edi
		0x0f, 0x05, // syscall
	},
	"arm64": {
		0x00, 0x00, 0x80, 0xd2, // mov x0, 0
		0xe1, 0x03, 0x00, 0x91, // mov x1, sp
		0x22, 0x00, 0x80, 0xd2, // mov x2, 1
		0xe8, 0x07, 0x80, 0xd2, // mov x8, 63 (read)
		0x01, 0x00, 0x00, 0xd4, // svc 0
		0x00, 0x00, 0x80, 0xd2, // mov x0, 0
		0xa8, 0x0b, 0x80, 0xd2, // mov x8, 93 (exit)
		0x01, 0x00, 0x00, 0xd4, // svc 0
	},
}

// elfImage wraps code in the smallest static program.
func elfImage(code []byte, machine uint16) []byte {
	const base, headers = 0x400000, 64 + 56
	le := binary.LittleEndian
	b := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	b = le.AppendUint16(b, 2) // executable
	b = le.AppendUint16(b, machine)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, base+headers) // entry
	b = le.AppendUint64(b, 64)           // program headers
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{64, 56, 1, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 1) // PT_LOAD
	b = le.AppendUint32(b, 5) // read, execute
	for _, v := range []uint64{0, base, base, headers + uint64(len(code)), headers + uint64(len(code)), 0x1000} {
		b = le.AppendUint64(b, v)
	}
	return append(b, code...)
}

// NewHolder starts one.
func NewHolder() (*Holder, error) {
	code, ok := holderCode[runtime.GOARCH]
	if !ok {
		return nil, errdefs.ErrNotImplemented.WithMessage("the systemd cgroup driver is not supported on " + runtime.GOARCH)
	}
	machine := map[string]uint16{"amd64": 62, "arm64": 183}[runtime.GOARCH]
	fd, err := unix.MemfdCreate("wherry-scope", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	draft := os.NewFile(uintptr(fd), "wherry-scope")
	if _, err := draft.Write(elfImage(code, machine)); err != nil {
		draft.Close()
		return nil, err
	}
	// What someone may write cannot be executed: go on with a reader.
	program, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	draft.Close()
	if err != nil {
		return nil, err
	}
	defer program.Close()
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	cmd := &exec.Cmd{Path: fmt.Sprintf("/proc/self/fd/%d", program.Fd()), Args: []string{"wherry-scope"}, Stdin: in, Dir: "/"}
	if err := cmd.Start(); err != nil {
		out.Close()
		return nil, err
	}
	return &Holder{PID: cmd.Process.Pid, input: out, cmd: cmd}, nil
}

// Leave ends the process and waits for it.
func (h *Holder) Leave() {
	h.once.Do(func() {
		h.input.Close()
		_ = h.cmd.Wait() // its exit says nothing
	})
}
