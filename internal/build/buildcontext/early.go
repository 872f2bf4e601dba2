package buildcontext

import (
	"os"

	"golang.org/x/sys/unix"
)

// early has the kernel begin to write a large file while it still comes: the
// image that is made of it is on the disk before its build ends.
type early struct {
	file        *os.File
	size, begun int64 // bytes written, and of these on their way to the disk
}

// stride is how much goes on its way at once.
const stride = 8 << 20

// piece is how much is written by one call. The kernel's memory for more lies
// together if it can: a write of 1 MB where there is little such memory takes
// twice the time, for others' pages are moved.
const piece = 64 << 10

// Write writes to the file.
func (e *early) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var one int
		one, err = e.file.Write(p[n:min(n+piece, len(p))])
		n += one
	}
	if e.size += int64(n); e.size-e.begun >= stride {
		// It is only a hint.
		unix.SyncFileRange(int(e.file.Fd()), e.begun, e.size-e.begun, unix.SYNC_FILE_RANGE_WRITE) //nolint:errcheck // see above
		e.begun = e.size
	}
	return n, err
}
