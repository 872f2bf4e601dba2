package device

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// insn is one instruction of the kernel's 64-bit BPF machine.
type insn struct {
	op   uint8
	regs uint8 // source in the high half, destination in the low
	off  int16
	imm  int32
}

// Registers of the program below.
const (
	r0, r1, r2, r3, r4, r5 = 0, 1, 2, 3, 4, 5

	regContext, regType, regAccess, regMajor, regMinor = r1, r2, r3, r4, r5
)

func load32(dst, src uint8, off int16) insn {
	return insn{op: unix.BPF_LDX | unix.BPF_W | unix.BPF_MEM, regs: src<<4 | dst, off: off}
}

// alu32 works on the low half, with a constant.
func alu32(op uint8, dst uint8, imm int32) insn {
	return insn{op: unix.BPF_ALU | op | unix.BPF_K, regs: dst, imm: imm}
}

func mov32(dst, src uint8) insn {
	return insn{op: unix.BPF_ALU | unix.BPF_MOV | unix.BPF_X, regs: src<<4 | dst}
}

// jmp skips off instructions when the comparison with a constant holds.
func jmp(op uint8, dst uint8, imm int32, off int) insn {
	return insn{op: unix.BPF_JMP | op | unix.BPF_K, regs: dst, imm: imm, off: int16(off)}
}

func jmpReg(op uint8, dst, src uint8, off int) insn {
	return insn{op: unix.BPF_JMP | op | unix.BPF_X, regs: src<<4 | dst, off: int16(off)}
}

func answer(v int32) []insn {
	return []insn{
		{op: unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K, regs: r0, imm: v},
		{op: unix.BPF_JMP | unix.BPF_EXIT},
	}
}

// program compiles the rules for the hook that the kernel calls when a device
// is opened or made: it returns 1 to permit. The context is
// struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; } with the
// access in the high half of access_type and the type in the low.
func (d *Rules) program() []insn {
	p := []insn{
		load32(regType, regContext, 0),
		alu32(unix.BPF_AND, regType, 0xffff),
		load32(regAccess, regContext, 0),
		alu32(unix.BPF_RSH, regAccess, 16),
		load32(regMajor, regContext, 4),
		load32(regMinor, regContext, 8),
	}
	normal, other := int32(0), int32(1)
	if d.Allow {
		normal, other = 1, 0
	}
	for _, e := range d.Exceptions {
		// Comparisons are built without their targets, which is the end of
		// this exception: only then is its length known.
		kind := int32(2) // BPF_DEVCG_DEV_CHAR
		if e.Block {
			kind = 1
		}
		block := []insn{jmp(unix.BPF_JNE, regType, kind, 0)}
		switch {
		case d.Allow: // any access that is denied is enough
			block = append(block, mov32(r1, regAccess), alu32(unix.BPF_AND, r1, int32(e.Access)), jmp(unix.BPF_JEQ, r1, 0, 0))
		case e.Access != accAll: // all that is asked for must be allowed
			block = append(block, mov32(r1, regAccess), alu32(unix.BPF_AND, r1, int32(e.Access)), jmpReg(unix.BPF_JNE, r1, regAccess, 0))
		}
		if e.Major != Any {
			block = append(block, jmp(unix.BPF_JNE, regMajor, int32(e.Major), 0))
		}
		if e.Minor != Any {
			block = append(block, jmp(unix.BPF_JNE, regMinor, int32(e.Minor), 0))
		}
		block = append(block, answer(other)...)
		for i := range block {
			if class := block[i].op & 7; class == unix.BPF_JMP && block[i].op != unix.BPF_JMP|unix.BPF_EXIT {
				block[i].off = int16(len(block) - i - 1)
			}
		}
		p = append(p, block...)
	}
	return append(p, answer(normal)...)
}

// The kernel's union bpf_attr, as each command sees it.
type (
	attrLoad struct {
		progType, count   uint32
		insns, license    uint64
		logLevel, logSize uint32
		log               uint64
		_, _              uint32 // version, flags
		name              [16]byte
		_, attach         uint32
	}
	attrAttach struct{ target, prog, attachType, flags, replace uint32 }
	attrQuery  struct {
		target, attachType, _, _ uint32
		ids                      uint64
		count, _                 uint32
	}
	attrID struct{ id, _, _ uint32 }
)

func bpf[T any](cmd int, attr *T) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
		if errno == unix.EINTR || errno == unix.EAGAIN {
			continue
		}
		if errno != 0 {
			return -1, errno
		}
		return int(r), nil
	}
}

// Load gives the rules to the kernel as a program and returns its descriptor,
// which the caller closes; a program that is attached lives on without it.
func (d *Rules) Load() (int, error) {
	p := d.program()
	license := [...]byte{'A', 'p', 'a', 'c', 'h', 'e', '-', '2', '.', '0', 0}
	var raw bytes.Buffer
	for _, in := range p {
		raw.Write([]byte{in.op, in.regs, byte(in.off), byte(in.off >> 8), byte(in.imm), byte(in.imm >> 8), byte(in.imm >> 16), byte(in.imm >> 24)})
	}
	code := raw.Bytes()
	a := attrLoad{
		progType: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(p)),
		insns: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
		attach: unix.BPF_CGROUP_DEVICE,
	}
	copy(a.name[:], "wherry_devices")
	fd, err := bpf(unix.BPF_PROG_LOAD, &a)
	if err != nil && !errors.Is(err, unix.EPERM) {
		// Once more, for the verifier's words.
		log := make([]byte, 64<<10)
		a.logLevel, a.logSize, a.log = 1, uint32(len(log)), uint64(uintptr(unsafe.Pointer(&log[0])))
		if fd, again := bpf(unix.BPF_PROG_LOAD, &a); again == nil {
			return fd, nil
		}
		text, _, _ := bytes.Cut(log, []byte{0})
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(text))
	}
	if err != nil {
		return -1, fmt.Errorf("load device program: %w", err)
	}
	return fd, nil
}

// Attach makes the program the only one of its kind on a cgroup v2 directory.
func Attach(dir string, prog int) error {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_RDONLY, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	old, err := attachedPrograms(fd)
	if err != nil {
		return fmt.Errorf("list device programs of %s: %w", dir, err)
	}
	defer func() {
		for _, o := range old {
			unix.Close(o)
		}
	}()
	a := attrAttach{target: uint32(fd), prog: uint32(prog), attachType: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI}
	if len(old) == 1 {
		// In one step: there is no moment without rules.
		b := a
		b.flags |= unix.BPF_F_REPLACE
		b.replace = uint32(old[0])
		if _, err = bpf(unix.BPF_PROG_ATTACH, &b); err == nil {
			return nil
		}
	}
	if _, err := bpf(unix.BPF_PROG_ATTACH, &a); err != nil && (!errors.Is(err, unix.EINVAL) || len(old) == 0) {
		return fmt.Errorf("attach device program to %s: %w", dir, err)
	}
	// All programs must permit: the old ones go after the new one is there.
	for _, o := range old {
		b := attrAttach{target: uint32(fd), prog: uint32(o), attachType: unix.BPF_CGROUP_DEVICE}
		if _, err := bpf(unix.BPF_PROG_DETACH, &b); err != nil {
			return fmt.Errorf("detach device program from %s: %w", dir, err)
		}
	}
	return nil
}

// attachedPrograms opens the programs on a directory.
func attachedPrograms(dir int) ([]int, error) {
	var ids [64]uint32
	q := attrQuery{target: uint32(dir), attachType: unix.BPF_CGROUP_DEVICE, ids: uint64(uintptr(unsafe.Pointer(&ids[0]))), count: uint32(len(ids))}
	if _, err := bpf(unix.BPF_PROG_QUERY, &q); err != nil {
		return nil, err
	}
	var out []int
	for _, id := range ids[:q.count] {
		fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, &attrID{id: id})
		if errors.Is(err, unix.ENOENT) {
			continue // it went meanwhile
		} else if err != nil {
			return out, err
		}
		out = append(out, fd)
	}
	return out, nil
}
