//go:build unix

package files

import (
	"archive/tar"
	"fmt"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// describe fills in what only the system's own record of a file knows. inode
// says which names are the same file; it is zero for one that has no other name.
func describe(h *tar.Header, file string, st fs.FileInfo) (inode [2]uint64, err error) {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return inode, fmt.Errorf("%s: its owner is not known", file)
	}
	h.Mode, h.Uid, h.Gid = int64(sys.Mode&0o7777), int(sys.Uid), int(sys.Gid)
	if st.Mode()&fs.ModeDevice != 0 {
		h.Devmajor, h.Devminor = int64(unix.Major(uint64(sys.Rdev))), int64(unix.Minor(uint64(sys.Rdev))) //nolint:unconvert // its width differs
	}
	if sys.Nlink > 1 && !st.IsDir() {
		inode = [2]uint64{uint64(sys.Dev), sys.Ino} //nolint:unconvert // its width differs
	}
	return inode, nil
}
