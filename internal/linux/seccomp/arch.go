package seccomp

import (
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

//go:generate go run generate.go

// syscall is a row of the generated table.
type syscall struct {
	name string
	nr   [5]int32 // by column
}

// x32Bit marks x32 calls; the kernel gives them x86-64's audit architecture.
const x32Bit = 0x40000000

// machine is one system call convention.
type machine struct {
	arch   specs.Arch
	column int    // in the generated table
	audit  uint32 // seccomp_data.arch
	wide   bool   // arguments are compared as 64 bits; else only the low 32
	// Numbers of socketcall(2) and ipc(2), which carry other calls; 0 if none.
	socketcall, ipc uint32
}

// family is what one kernel runs, its own convention first.
type family []machine

var (
	amd64 = family{
		{arch: specs.ArchX86_64, column: 0, audit: unix.AUDIT_ARCH_X86_64, wide: true},
		{arch: specs.ArchX86, column: 1, audit: unix.AUDIT_ARCH_I386, socketcall: 102, ipc: 117},
		{arch: specs.ArchX32, column: 2, audit: unix.AUDIT_ARCH_X86_64},
	}
	arm64 = family{
		{arch: specs.ArchAARCH64, column: 3, audit: unix.AUDIT_ARCH_AARCH64, wide: true},
		{arch: specs.ArchARM, column: 4, audit: unix.AUDIT_ARCH_ARM},
	}
	families = map[string]family{"amd64": amd64, "arm64": arm64}
)

// foreign are architectures that a profile may name and that no kernel of a
// supported family runs: they are left out of the program.
var foreign = []specs.Arch{
	specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32, specs.ArchMIPSEL, specs.ArchMIPSEL64,
	specs.ArchMIPSEL64N32, specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390,
	specs.ArchS390X, specs.ArchPARISC, specs.ArchPARISC64, specs.ArchRISCV64,
	specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB,
}

// choose gives the machines that a profile covers: always the native one.
func (f family) choose(named []specs.Arch) ([]machine, error) {
	out := []machine{f[0]}
	for _, a := range named {
		if i := slices.IndexFunc(f, func(m machine) bool { return m.arch == a }); i > 0 {
			if !slices.Contains(out, f[i]) {
				out = append(out, f[i])
			}
		} else if i < 0 && !known(a) {
			return nil, fmt.Errorf("seccomp profile: unknown architecture %q", a)
		}
	}
	return out, nil
}

func known(a specs.Arch) bool {
	for _, f := range families {
		if slices.ContainsFunc(f, func(m machine) bool { return m.arch == a }) {
			return true
		}
	}
	return slices.Contains(foreign, a)
}

// The first argument of socketcall and ipc says which call is meant.
var (
	socketcalls = map[string]uint64{
		"socket": 1, "bind": 2, "connect": 3, "listen": 4, "accept": 5, "getsockname": 6, "getpeername": 7,
		"socketpair": 8, "send": 9, "recv": 10, "sendto": 11, "recvfrom": 12, "shutdown": 13, "setsockopt": 14,
		"getsockopt": 15, "sendmsg": 16, "recvmsg": 17, "accept4": 18, "recvmmsg": 19, "sendmmsg": 20,
	}
	ipcs = map[string]uint64{
		"semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4, "msgsnd": 11, "msgrcv": 12, "msgget": 13, "msgctl": 14,
		"shmat": 21, "shmdt": 22, "shmget": 23, "shmctl": 24,
	}
)

// number looks a name up; ok is false where this machine has no such call.
func (m machine) number(name string) (nr uint32, ok bool) {
	i, found := slices.BinarySearchFunc(syscalls[:], name, func(s syscall, name string) int { return strings.Compare(s.name, name) })
	if !found || syscalls[i].nr[m.column] < 0 {
		return 0, false
	}
	return uint32(syscalls[i].nr[m.column]), true
}
