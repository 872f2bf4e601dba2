// Package quota owns limits on what a directory holds: the project quotas of
// ext4 and xfs. A limited directory has a project of its own, a number on the
// file system that all that is made below inherits; the limit is kept by the
// file system, over restarts too.
package quota

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrUnsupported is in errors.Is of the error when a file system keeps no
// project quotas.
var ErrUnsupported = errors.New("no project quotas")

// From linux/fs.h and linux/dqblk_xfs.h.
const (
	getAttributes = 0x801c581f // FS_IOC_FSGETXATTR
	setAttributes = 0x401c5820 // FS_IOC_FSSETXATTR
	inherit       = 0x200      // FS_XFLAG_PROJINHERIT

	project = 2                 // PRJQUOTA
	getOne  = ('X'<<8 + 3) << 8 // Q_XGETQUOTA, shifted for its type
	setOne  = ('X'<<8 + 4) << 8 // Q_XSETQLIM
	state   = ('X'<<8 + 8) << 8 // Q_XGETQSTATV

	enforced = 1 << 5 // FS_QUOTA_PDQ_ENFD
	block    = 512    // bytes of the unit of limits
)

// attributes is struct fsxattr.
type attributes struct {
	Flags, ExtentSize, Extents, Project, CowExtentSize uint32
	_                                                  [8]byte
}

// quota is struct fs_disk_quota.
type quota struct {
	Version, Flags       int8
	Fields               uint16
	ID                   uint32
	Hard, Soft           uint64 // blocks
	InodeHard, InodeSoft uint64
	Blocks, Inodes       uint64
	_                    [56]byte
}

const (
	softField = 1 << 2
	hardField = 1 << 3
)

// choosing keeps two callers from taking the same number.
var choosing sync.Mutex

// Limit gives the directory, which must be empty, a project of its own that
// may hold so many bytes; everything made below counts. Processes with
// CAP_SYS_RESOURCE are not held to it.
func Limit(dir string, bytes uint64) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	if err := supported(fd, dir); err != nil {
		return err
	}
	choosing.Lock()
	defer choosing.Unlock()
	id, err := free(fd)
	if err != nil {
		return fmt.Errorf("choose a project for %s: %w", dir, err)
	}
	// The limit first: the directory is never without.
	if err := set(fd, id, bytes); err != nil {
		return fmt.Errorf("limit project %d for %s: %w", id, dir, err)
	}
	var a attributes
	if err := ioctl(fd, getAttributes, &a); err == nil {
		a.Flags |= inherit
		a.Project = id
		err = ioctl(fd, setAttributes, &a)
		if err == nil {
			return nil
		}
	}
	_ = set(fd, id, 0) // the first error is the one to tell
	return fmt.Errorf("set the project of %s: %w", dir, err)
}

// Release takes the limit of a directory away, before it is deleted. A
// directory without one is no error.
func Release(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	var a attributes
	if err := ioctl(fd, getAttributes, &a); err != nil || a.Project == 0 || a.Flags&inherit == 0 {
		return nil // no such thing here
	}
	return set(fd, a.Project, 0)
}

// Supported tells whether the file system of dir keeps limits; the error says
// what is missing.
func Supported(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return supported(fd, dir)
}

func supported(fd int, dir string) error {
	var answer [256]byte // struct fs_quota_statv
	answer[0] = 1        // its version
	err := control(fd, state, 0, unsafe.Pointer(&answer))
	if err == nil && binary.NativeEndian.Uint16(answer[2:])&enforced != 0 {
		return nil
	}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("ask for the quotas of %s: %w", dir, err)
	}
	return &unsupported{dir, err}
}

// unsupported says what to do about it.
type unsupported struct {
	dir string
	err error
}

func (e *unsupported) Error() string {
	var st unix.Statfs_t
	kind, way := "its file system", "ext4 and xfs have them"
	if unix.Statfs(e.dir, &st) == nil {
		switch st.Type {
		case unix.EXT4_SUPER_MAGIC:
			kind, way = "its file system, ext4,", "run `tune2fs -O project,quota` on the unmounted device and mount it with the option prjquota"
		case unix.XFS_SUPER_MAGIC:
			kind, way = "its file system, xfs,", "mount it with the option prjquota"
		}
	}
	if errors.Is(e.err, unix.ENOSYS) {
		way = "this kernel has no quotas by directory (Linux 5.14 with CONFIG_QUOTA)"
	}
	return fmt.Sprintf("%s cannot be limited: %s keeps no project quotas; %s", e.dir, kind, way)
}

func (e *unsupported) Is(target error) bool { return target == ErrUnsupported }

// free finds a number that nobody uses on the file system.
func free(fd int) (uint32, error) {
	for range 64 {
		id := 1<<20 + rand.Uint32N(1<<31-1<<20) //nolint:gosec // far from what administrators write into /etc/projid
		var q quota
		err := control(fd, getOne, id, unsafe.Pointer(&q))
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || err == nil && q.Hard|q.Soft|q.Blocks|q.Inodes == 0 {
			return id, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, errors.New("all are taken")
}

func set(fd int, id uint32, bytes uint64) error {
	blocks := (bytes + block - 1) / block
	return control(fd, setOne, id, unsafe.Pointer(&quota{Version: 1, Flags: project, Fields: softField | hardField, ID: id, Hard: blocks, Soft: blocks}))
}

// control is quotactl_fd(2), which needs no name of the device.
func control(fd, command int, id uint32, at unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, uintptr(fd), uintptr(command|project), uintptr(id), uintptr(at), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func ioctl(fd int, request uintptr, a *attributes) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(a)))
	if errno != 0 {
		return errno
	}
	return nil
}
