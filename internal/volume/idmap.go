package volume

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/idmap"
	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/linux/ns"
)

// Owners says how the owners of files are shown, given who has the root of
// them on the file system.
type Owners func(uid, gid uint32) (idmap.Map, error)

// Mapped makes what is at p, a directory or file of the host or what Mount
// gave, available to one start with other owners. Nothing on the file system
// changes: what the container makes has the owner there that it shows here.
func (s *Store) Mapped(p Place, recursive bool, owners Owners) (Place, error) {
	tree, err := Tree(s, p, recursive)
	if err != nil {
		return Place{}, err
	}
	defer unix.Close(tree)
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return Place{}, err
	}
	m, err := owners(st.Uid, st.Gid)
	if err != nil {
		return Place{}, err
	}
	userns, err := ns.NewUser(lines(m.UIDs), lines(m.GIDs))
	if err != nil {
		return Place{}, err
	}
	defer userns.Close()
	switch err = mount.Map(tree, int(userns.Fd()), recursive); {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return Place{}, fmt.Errorf("idmap: %s, or something mounted below it, is on a file system that cannot show other owners (Linux 5.12 with ext4 and FAT, 5.15 btrfs, 5.19 xfs and overlays' layers, 6.3 tmpfs); with bind-recursive=disabled what is mounted below is left out: %w", p.Source, err)
	case errors.Is(err, unix.EPERM):
		return Place{}, fmt.Errorf("idmap: the owners of %s are mapped already: %w", p.Source, err)
	case err != nil:
		return Place{}, err
	}
	at, err := s.chamber.attach(tree)
	if err != nil {
		return Place{}, err
	}
	return Place{Source: s.chamber.source(at), Device: p.Device, at: at, once: at}, nil
}

// lines are a mapping as the kernel wants it: inside is the file system.
func lines(list []idmap.Range) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(list))
	for i, r := range list {
		out[i] = syscall.SysProcIDMap{ContainerID: int(r.Host), HostID: int(r.Container), Size: int(r.Size)}
	}
	return out
}

// Look calls f with the root of layers, top first, which lasts as long as f.
func Look(layers []string, f func(root int) error) error {
	return apart(func() error {
		root, err := merged(layers)
		if err != nil {
			return err
		}
		defer unix.Close(root)
		return f(root)
	})
}
