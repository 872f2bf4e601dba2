package main

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/runtime/initproto"
)

// console makes a pty in the container's own devpts, hands out its master and
// takes the slave as standard streams and controlling terminal.
func (s *state) console(main bool) *initproto.Failure {
	pts := s.pts
	if pts < 0 {
		fd, err := mount.OpenStrict(s.root, "/dev/pts", unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return fail("console", err)
		}
		pts = fd
	}
	if magic, err := mount.FSType(pts); err != nil || magic != unix.DEVPTS_SUPER_MAGIC {
		return failText("console", "/dev/pts is not a devpts file system", unix.ENOTTY)
	}
	master, err := mount.OpenBelow(pts, "ptmx", unix.O_RDWR|unix.O_NOCTTY)
	if err != nil {
		return fail("open ptmx", err)
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return fail("unlock pty", err)
	}
	number, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return fail("pty number", err)
	}
	slave, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if e != 0 {
		return fail("open pty slave", e)
	}
	if main {
		if err := s.bindConsole(pts, number); err != nil {
			return fail("/dev/console", err)
		}
	}
	if err := send([]byte{initproto.KindTerminal}, master); err != nil {
		return fail("send pty", err)
	}
	unix.Close(master)
	// A session leader only can take a controlling terminal.
	_, _ = unix.Setsid()
	if err := unix.IoctlSetInt(int(slave), unix.TIOCSCTTY, 0); err != nil {
		return fail("controlling terminal", err)
	}
	for fd := range 3 {
		if err := unix.Dup3(int(slave), fd, 0); err != nil {
			return fail("console streams", err)
		}
	}
	return nil
}

// bindConsole shows the slave as /dev/console. The source is named below our
// own devpts, never by a path of the container's.
func (s *state) bindConsole(pts, number int) error {
	tree, err := mount.Clone(pts, itoa(number), false)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	var target int
	if s.dev >= 0 {
		target, err = mount.CreateFile(s.dev, "console", 0o600)
	} else {
		target, err = mount.CreateFile(s.root, "/dev/console", 0o600)
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return mount.Attach(tree, target)
}

func itoa(n int) string {
	if n < 0 {
		return "-" + itoa(-n)
	}
	if n < 10 {
		return string([]byte{'0' + byte(n)})
	}
	return itoa(n/10) + string([]byte{'0' + byte(n%10)})
}

// loadSeccomp installs a compiled filter on this thread.
func loadSeccomp(filter []byte, flags uint32) unix.Errno {
	prog := unix.SockFprog{Len: uint16(len(filter) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	_, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(&prog)))
	return e
}
