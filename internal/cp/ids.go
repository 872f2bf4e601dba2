package cp

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/ns"
)

// ids translates owners between the host and a container's user namespace.
// The zero value, for a container without one, changes nothing.
type ids struct{ uids, gids [][3]uint32 } // first id inside, first outside, count

// nobody stands for an owner that the container cannot have.
const nobody = 65534

// idsOf reads the maps of a process's user namespace.
func idsOf(pid int) (ids, error) {
	var m ids
	own, err := ns.Own(pid, "user")
	if err != nil || own {
		return m, err
	}
	if m.uids, err = ns.Mappings(pid, "uid_map"); err == nil {
		m.gids, err = ns.Mappings(pid, "gid_map")
	}
	return m, err
}

func (m *ids) inside(uid, gid uint32) (int, int) {
	return translate(m.uids, uid, 1, 0), translate(m.gids, gid, 1, 0)
}

func (m *ids) outside(uid, gid int) (int, int) {
	return translate(m.uids, uint32(uid), 0, 1), translate(m.gids, uint32(gid), 0, 1)
}

func translate(ranges [][3]uint32, id uint32, from, to int) int {
	if len(ranges) == 0 {
		return int(id)
	}
	for _, r := range ranges {
		if id >= r[from] && id-r[from] < r[2] {
			return int(r[to] + id - r[from])
		}
	}
	if to == 0 {
		return nobody
	}
	return translate(ranges, 0, from, to) // the container's root
}

// act runs f so that what it makes belongs to the container's root: id-mapped
// file systems refuse owners that they do not know.
func (m *ids) act(f func() error) error {
	if len(m.uids) == 0 {
		return f()
	}
	uid, gid := m.outside(0, 0)
	return ns.Aside(func() error {
		// The capabilities of this thread are to stay when its user changes.
		if err := unix.Prctl(unix.PR_SET_SECUREBITS, secbitNoSetuidFixup, 0, 0, 0); err != nil {
			return fmt.Errorf("set securebits: %w", err)
		}
		if err := unix.Setfsgid(gid); err != nil {
			return fmt.Errorf("act as group %d: %w", gid, err)
		}
		if err := unix.Setfsuid(uid); err != nil {
			return fmt.Errorf("act as user %d: %w", uid, err)
		}
		return f()
	})
}

const secbitNoSetuidFixup = 1 << 2
