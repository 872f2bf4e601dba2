// Package wire owns what the engine and its keeper say to one another: the
// frames, the messages in them, and how descriptors travel along.
package wire

// Key names a supervised process: the main process of a container, or with
// Exec set one that was started beside it.
type Key struct{ Container, Exec string }

// String gives the key as it is in messages and file names.
func (k Key) String() string {
	if k.Exec == "" {
		return k.Container
	}
	return k.Container + "." + k.Exec
}
