// Package caps owns capability names, sets and their application to the
// calling thread.
package caps

import (
	"golang.org/x/sys/unix"
)

// Set is a set of capabilities, bit n for capability n.
type Set uint64

// names is in the kernel's order: the index is the number.
var names = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// Number gives the capability called name (with CAP_), or -1.
func Number(name string) int {
	for i, n := range names {
		if n == name {
			return i
		}
	}
	return -1
}

// Name gives the name of a number, "" for one this program does not know.
func Name(n int) string {
	if n < 0 || n >= len(names) {
		return ""
	}
	return names[n]
}

// Of gives the set of names; those unknown are returned beside it.
func Of(list []string) (s Set, unknown []string) {
	for _, name := range list {
		if n := Number(name); n >= 0 {
			s |= 1 << n
		} else {
			unknown = append(unknown, name)
		}
	}
	return s, unknown
}

// Names gives the members in the kernel's order.
func (s Set) Names() []string {
	var list []string
	for i, n := range names {
		if s&(1<<i) != 0 {
			list = append(list, n)
		}
	}
	return list
}

// Current gives the permitted and effective sets of the calling thread.
func Current() (permitted, effective Set, err error) {
	var data [2]unix.CapUserData
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, 0, err
	}
	permitted = Set(data[0].Permitted) | Set(data[1].Permitted)<<32
	effective = Set(data[0].Effective) | Set(data[1].Effective)<<32
	return permitted, effective, nil
}

// Bounding gives the bounding set of the calling thread, which takes a call for
// each capability.
func Bounding() (s Set) {
	for n := range len(names) {
		if v, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0); err == nil && v == 1 {
			s |= 1 << n
		}
	}
	return s
}

// Limit drops everything outside keep from the bounding set, also what newer
// kernels know and this program does not.
func Limit(keep Set) error {
	for n := range 64 {
		if keep&(1<<n) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(n), 0, 0, 0)
		if err == unix.EINVAL {
			return nil // past the kernel's last
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Apply sets the three sets of the calling thread.
func Apply(effective, permitted, inheritable Set) error {
	data := [2]unix.CapUserData{
		{Effective: uint32(effective), Permitted: uint32(permitted), Inheritable: uint32(inheritable)},
		{Effective: uint32(effective >> 32), Permitted: uint32(permitted >> 32), Inheritable: uint32(inheritable >> 32)},
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return unix.Capset(&hdr, &data[0])
}

// Raise puts the members of s into the ambient set; they must be permitted and
// inheritable. What was there before goes.
func Raise(s Set) error {
	err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	if err != nil && (s != 0 || err != unix.EINVAL) {
		return err
	}
	for n := range len(names) {
		if s&(1<<n) != 0 {
			if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(n), 0, 0); err != nil {
				return err
			}
		}
	}
	return nil
}
