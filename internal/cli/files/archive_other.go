//go:build !linux

package files

import (
	"archive/tar"
	"fmt"
	"os"
	"runtime"
)

// makeNode refuses: where the system has no mknodat, a device or a pipe could
// only be made by a path that somebody else may redirect.
func makeNode(_ *os.Root, name string, _ *tar.Header) error {
	return fmt.Errorf("%s is a device or a named pipe, which this client cannot make on %s", name, runtime.GOOS)
}
