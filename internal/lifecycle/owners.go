package lifecycle

import (
	"errors"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/idmap"
	"github.com/wherry-engine/wherry/internal/runtime/identity"
	"github.com/wherry-engine/wherry/internal/runtime/initproto"
	"github.com/wherry-engine/wherry/internal/snapshot"
	"github.com/wherry-engine/wherry/internal/volume"
)

// ownersFor tells how a mount's files are owned in a container: by the ranges
// given, or, with "auto", so that who has the mount's root on the file system
// is the container's user.
func (l *launcher) ownersFor(c *container.Container, text string) volume.Owners {
	return func(uid, gid uint32) (idmap.Map, error) {
		var m idmap.Map
		if text == "auto" {
			user, err := l.userOf(c)
			if err != nil {
				return m, err
			}
			m = idmap.Map{UIDs: idmap.Show(uid, user.UID), GIDs: idmap.Show(gid, user.GID)}
		} else {
			var err error
			if m, err = idmap.ParseMount(text); err != nil {
				return m, invalid("%v", err)
			}
		}
		if l.remapped(c.HostConfig) {
			m.UIDs, m.GIDs = idmap.Within(m.UIDs, ranges(l.cfg.UIDMaps)), idmap.Within(m.GIDs, ranges(l.cfg.GIDMaps))
		}
		return m, nil
	}
}

func ranges(maps []specs.LinuxIDMapping) []idmap.Range {
	out := make([]idmap.Range, len(maps))
	for i, m := range maps {
		out[i] = idmap.Range{Container: m.ContainerID, Host: m.HostID, Size: m.Size}
	}
	return out
}

// userOf looks up who the container's USER is, in the container's files.
func (l *launcher) userOf(c *container.Container) (id identity.Identity, err error) {
	if c.Config.User == "" || c.Config.User == "0:0" {
		return id, nil
	}
	w, err := l.snapshots.OpenWritable(c.ID, snapshot.Lower{})
	if err != nil {
		return id, err
	}
	dirs := append([]string{w.Upper}, w.Lower...)
	if w.Dir != "" {
		dirs = []string{w.Dir}
	}
	err = volume.Look(dirs, func(root int) error {
		var f *initproto.Failure
		if id, f = identity.Of(root, &initproto.Process{Lookup: true, User: c.Config.User}); f != nil {
			return errors.New(strings.TrimSpace(f.Message))
		}
		return nil
	})
	return id, err
}
