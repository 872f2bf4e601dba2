package sandbox

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
)

// Owners are the mappings of a user namespace, for who mounts ahead of a start
// what its process is to have. It holds a user namespace with no process in it.
type Owners struct {
	userns     int
	uids, gids []IDMap
}

// NewOwners makes the namespace; init is the wherry-init binary.
func NewOwners(init *os.File, uids, gids []IDMap) (*Owners, error) {
	fd, err := userNamespace(init, uids, gids)
	if err != nil {
		return nil, stepError("user namespace", err)
	}
	return &Owners{fd, uids, gids}, nil
}

// Close gives the namespace up. What was mounted keeps its owners.
func (o *Owners) Close() error { return unix.Close(o.userns) }

// Mount mounts an overlay and gives it as a detached tree, in which the layers'
// files have the mapped owners. With no Data it is the directory Base itself.
func (o *Owners) Mount(v *mount.Overlay) (int, error) {
	return mountTree(&Plan{Root: v, UIDMappings: o.uids, GIDMappings: o.gids}, o.userns)
}

// Map gives the files of a detached tree, and of what is mounted below, the
// mapped owners. It closes a tree that cannot have them.
func (o *Owners) Map(tree int, path string) error { return mapped(tree, o.userns, path, true) }
