package spec

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/wherry-engine/wherry/internal/linux/ns"
)

// RootOf gives the host's id of the container's root, -1 when it has none.
func RootOf(maps []specs.LinuxIDMapping) int {
	for _, m := range maps {
		if m.ContainerID == 0 {
			return int(m.HostID)
		}
	}
	return -1
}

// MappingsOf reads the mappings of a process that is in another user namespace
// than the caller; none when it is not.
func MappingsOf(pid int) (uids, gids []specs.LinuxIDMapping, err error) {
	if own, err := ns.Own(pid, "user"); err != nil || own {
		return nil, nil, err
	}
	if uids, err = mappings(pid, "uid_map"); err == nil {
		gids, err = mappings(pid, "gid_map")
	}
	return uids, gids, err
}

func mappings(pid int, file string) ([]specs.LinuxIDMapping, error) {
	ranges, err := ns.Mappings(pid, file)
	var out []specs.LinuxIDMapping
	for _, r := range ranges {
		out = append(out, specs.LinuxIDMapping{ContainerID: r[0], HostID: r[1], Size: r[2]})
	}
	return out, err
}
