package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// sharedName is the directory beside groups that those without limits under
// cpuset have in common. A JVM that does not find its group there, by the path
// that it reads, believes that it has no memory limit either. Of other
// controllers nobody is known to ask that, and each costs a start more.
const sharedName = "wherry-shared"

// shareCpuset chooses that directory if the group has none of its own under the
// controller. It is made once, and stays until Clean. Called with g.mu held.
func (g *groupV1) shareCpuset() error {
	mount, ok := g.m.mounts["cpuset"]
	if !ok || g.own[mount.dir] != "" || g.shared[mount.dir] != "" {
		return nil
	}
	dir := g.sharedIn(mount)
	g.use(dir)
	err := g.share(dir)
	if err != nil {
		g.leave(dir)
	}
	switch {
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil // it is somebody else's, and no limit needs it
	case err != nil:
		return err
	}
	g.takeShared(mount, dir)
	return nil
}

func (g *groupV1) sharedIn(m mount) string {
	return filepath.Join(m.dir, path.Dir(g.path), sharedName)
}

func (g *groupV1) takeShared(m mount, dir string) {
	if g.shared == nil {
		g.shared = map[string]string{}
	}
	g.shared[m.dir] = dir
}

// share makes the directory of those without limits if it is not there, and
// gives it what its parent has by now.
func (g *groupV1) share(dir string) error {
	if err := g.m.mkdirs(dir, fillCpuset); err == nil {
		g.m.remember(dir)
	} else if !errors.Is(err, unix.EEXIST) {
		return err
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := read(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		parent, err := parentCpuset(dir, file)
		if err != nil {
			return err
		}
		if have != parent {
			if err := write(filepath.Join(dir, file), parent); err != nil {
				return err
			}
		}
	}
	return nil
}

// found takes note of the directories that the group shares with others, by one
// of its processes; false when that has died meanwhile. Called with g.mu held.
func (g *groupV1) found(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	parent := path.Dir(g.path)
	for c, mount := range g.m.mounts {
		at, ok := pathIn(text, mount, c)
		if !ok || g.own[mount.dir] != "" {
			continue
		}
		// It may have gone on into groups of its own, further below.
		rest, below := strings.CutPrefix(at, strings.TrimSuffix(parent, "/")+"/")
		first, _, _ := strings.Cut(rest, "/")
		switch {
		case c == "devices" && below && strings.HasPrefix(first, devicesPrefix):
			g.devices = filepath.Join(mount.dir, parent, first)
		case c == "devices":
			if below || at == parent {
				g.devices = filepath.Join(mount.dir, parent)
			}
		case c == "cpuset" && below && first == sharedName:
			if dir := g.sharedIn(mount); exists(dir) {
				g.use(dir)
				g.takeShared(mount, dir)
			}
		}
	}
	return true
}

// use puts the group on the list of those that share a directory: from here on
// Clean leaves it.
func (g *groupV1) use(dir string) {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	if g.m.shared[dir] == nil {
		g.m.shared[dir] = set{}
	}
	g.m.shared[dir][g.path] = struct{}{}
}

// leave takes it off one of these lists, release off all.
func (g *groupV1) leave(dir string) {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	g.left(dir)
}

func (g *groupV1) release() {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	for dir := range g.m.shared {
		g.left(dir)
	}
}

func (g *groupV1) left(dir string) {
	if delete(g.m.shared[dir], g.path); len(g.m.shared[dir]) == 0 {
		delete(g.m.shared, dir)
	}
}
