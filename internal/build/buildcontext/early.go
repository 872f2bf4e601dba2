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

// Write writes to the file.
func (e *early) Write(p []byte) (int, error) {
	n, err := e.file.Write(p)
	if e.size += int64(n); e.size-e.begun >= stride {
		// It is only a hint.
		unix.SyncFileRange(int(e.file.Fd()), e.begun, e.size-e.begun, unix.SYNC_FILE_RANGE_WRITE) //nolint:errcheck // see above
		e.begun = e.size
	}
	return n, err
}
