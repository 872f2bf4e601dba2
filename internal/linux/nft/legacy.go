package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the kernel says of a table of iptables' older interface, which
// iptables-legacy uses: <linux/netfilter_ipv4/ip_tables.h> and ip6_tables.h.
const (
	iptGetInfo    = 64 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
	iptGetEntries = 65 // IPT_SO_GET_ENTRIES, IP6T_SO_GET_ENTRIES

	iptStandardTarget = 32 // struct xt_entry_target, after which a verdict follows
	iptDrop           = -1 // -NF_DROP - 1
)

// iptInfo is struct ipt_getinfo, and ip6t_getinfo.
type iptInfo struct {
	name       [32]byte
	validHooks uint32
	hookEntry  [5]uint32 // offset of the first rule of each hook
	underflow  [5]uint32 // offset of its policy
	entries    uint32    // rules in the table
	size       uint32    // bytes of all rules
}

// The head of struct ipt_get_entries, and ip6t_get_entries: the table's name, the
// bytes of all rules, and four more, because the rules are aligned to 8.
const (
	iptEntriesSize = 32 // where the bytes of all rules are
	iptEntriesHead = 40 // where the rules begin
)

// Older tells which programs' FORWARD chain, in the calling thread's network
// namespace, may stop packets by the kernel's older interface, as "program:
// what". Packets have to pass these rules and nft's. A table that nobody uses
// is not brought into being.
func Older() ([]string, error) {
	var out []string
	for _, v := range []struct {
		program, list  string
		domain, level  int
		targetAt, head int // where a rule says where its target is
	}{
		{"iptables-legacy", "ip_tables_names", unix.AF_INET, unix.IPPROTO_IP, 88, 112},
		{"ip6tables-legacy", "ip6_tables_names", unix.AF_INET6, unix.IPPROTO_IPV6, 140, 168},
	} {
		names, err := os.ReadFile("/proc/thread-self/net/" + v.list)
		if errors.Is(err, fs.ErrNotExist) {
			continue // this kernel has no such interface, or nobody has used it
		}
		if err != nil {
			return out, err
		}
		if !slices.Contains(strings.Fields(string(names)), "filter") {
			continue
		}
		rules, drops, err := olderForward(v.domain, v.level, v.targetAt, v.head)
		switch {
		case err != nil:
			return out, fmt.Errorf("read the rules of %s: %w", v.program, err)
		case drops:
			out = append(out, v.program+": chain FORWARD has the policy DROP")
		case rules:
			out = append(out, v.program+": chain FORWARD has rules")
		}
	}
	return out, nil
}

// olderForward reads whether the chain FORWARD of the table filter has rules,
// and whether its policy is to drop.
func olderForward(domain, level, targetAt, head int) (rules, drops bool, err error) {
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return false, false, err
	}
	defer unix.Close(fd)
	get := func(option int, p unsafe.Pointer, size uintptr) error {
		n := uint32(size)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(p), uintptr(unsafe.Pointer(&n)), 0)
		if errno != 0 {
			return errno
		}
		return nil
	}
	const forward = 2 // NF_INET_FORWARD
	for range 3 {
		info := iptInfo{}
		copy(info.name[:], "filter")
		if err := get(iptGetInfo, unsafe.Pointer(&info), unsafe.Sizeof(info)); err != nil {
			return false, false, err
		}
		buf := make([]byte, iptEntriesHead+int(info.size))
		copy(buf, "filter")
		binary.NativeEndian.PutUint32(buf[iptEntriesSize:], info.size)
		err := get(iptGetEntries, unsafe.Pointer(&buf[0]), uintptr(len(buf)))
		if errors.Is(err, unix.EAGAIN) {
			continue // the table was changed in between
		}
		if err != nil {
			return false, false, err
		}
		all := buf[iptEntriesHead:]
		at := int(info.underflow[forward])
		if at+head > len(all) {
			return false, false, fmt.Errorf("a policy at %d of %d bytes", at, len(all))
		}
		at += int(binary.NativeEndian.Uint16(all[at+targetAt:])) + iptStandardTarget
		if at+4 > len(all) || !bytes.HasPrefix(all[at-iptStandardTarget+2:], []byte{0}) {
			return false, false, fmt.Errorf("a verdict at %d of %d bytes", at, len(all))
		}
		verdict := int32(binary.NativeEndian.Uint32(all[at:]))
		return info.hookEntry[forward] != info.underflow[forward], verdict == iptDrop, nil
	}
	return false, false, unix.EAGAIN
}
