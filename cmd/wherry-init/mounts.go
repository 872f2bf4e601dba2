package main

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/runtime/initproto"
)

// prepared is a detached tree and where it goes.
type prepared struct {
	tree int
	m    *initproto.Mount
	made bool // the directory it covers did not exist
}

func errno(err error) unix.Errno {
	var e unix.Errno
	if errors.As(err, &e) {
		return e
	}
	return 0
}

// prepare makes the tree of m while the host's files are still in sight.
func (s *state) prepare(m *initproto.Mount) *initproto.Failure {
	tree, err := s.tree(m)
	if err != nil {
		if m.Optional && errors.Is(err, unix.ENOENT) {
			return nil
		}
		if m.Kind == initproto.MountNew {
			return failText("mount", "error mounting \""+m.Type+"\" to rootfs at \""+m.Target+"\": "+err.Error(), err)
		}
		return failText("mount", "error mounting \""+m.Source+"\" to rootfs at \""+m.Target+"\": "+err.Error(), err)
	}
	s.mounts = append(s.mounts, prepared{tree: tree, m: m})
	return nil
}

func (s *state) tree(m *initproto.Mount) (int, error) {
	if m.Kind == initproto.MountNew {
		return mount.New(m.Type, m.Source, m.Options, m.Attr)
	}
	var tree int
	var err error
	switch m.Kind {
	case initproto.MountFrom:
		tree, err = s.cloneFrom(m)
	case initproto.MountTree:
		fd, f := s.file(m.Number)
		if f != nil {
			return -1, initproto.ErrMalformed
		}
		tree = fd
	default:
		tree, err = mount.Clone(unix.AT_FDCWD, m.Source, m.Recursive)
	}
	if err != nil {
		return -1, err
	}
	if m.FSType != 0 {
		if magic, err := mount.FSType(tree); err != nil || magic != m.FSType {
			return -1, &mount.Error{Op: "check file system of", Path: m.Source, Err: unix.EINVAL}
		}
	}
	if m.SubAttr != 0 {
		if err := mount.Change(tree, m.SubAttr, 0, 0, true); err != nil {
			return -1, err
		}
	}
	if attr := m.Attr &^ m.SubAttr; attr != 0 || m.Clear != 0 {
		if err := mount.Change(tree, attr, m.Clear, 0, false); err != nil {
			return -1, err
		}
	}
	if m.Spread != 0 {
		if err := mount.Change(tree, 0, 0, m.Spread, m.SpreadAll); err != nil {
			return -1, err
		}
	}
	return tree, nil
}

// cloneFrom copies a tree out of another mount namespace. The path is walked
// inside that namespace's root without any link.
func (s *state) cloneFrom(m *initproto.Mount) (int, error) {
	fd, f := s.file(m.Number)
	if f != nil {
		return -1, initproto.ErrMalformed
	}
	own, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(own)
	if err := unix.Setns(fd, unix.CLONE_NEWNS); err != nil {
		return -1, err
	}
	tree, err := -1, error(nil)
	source, err := mount.OpenStrict(unix.AT_FDCWD, m.Source, unix.O_PATH)
	if err == nil {
		tree, err = mount.Clone(source, "", m.Recursive)
		unix.Close(source)
	}
	if back := unix.Setns(own, unix.CLONE_NEWNS); back != nil {
		return -1, back
	}
	return tree, err
}

// enterRoot mounts the root and leaves the host behind.
func (s *state) enterRoot(r *initproto.Root) *initproto.Failure {
	// Nothing that is mounted from here on may show up on the host.
	if err := mount.Isolate(unix.MS_PRIVATE); err != nil {
		return fail("isolate mounts", err)
	}
	var root int
	var err error
	switch {
	case r.Overlay:
		o := mount.Overlay{Base: r.Base, Data: r.Data, Paths: r.Paths}
		root, err = o.Mount()
	default:
		root, err = s.bindRoot(r)
	}
	if err != nil {
		return fail("mount root", err)
	}
	if err := mount.Pivot(root); err != nil {
		return fail("pivot", err)
	}
	s.root = root
	return nil
}

// bindRoot attaches a ready tree, or a clone of the directory Base, over Base.
func (s *state) bindRoot(r *initproto.Root) (int, error) {
	var tree int
	if r.Tree > 0 {
		fd, f := s.file(r.Tree - 1)
		if f != nil {
			return -1, initproto.ErrMalformed
		}
		tree = fd
	} else {
		fd, err := mount.Clone(unix.AT_FDCWD, r.Base, true)
		if err != nil {
			return -1, err
		}
		tree = fd
		if err := mount.Change(tree, 0, 0, unix.MS_PRIVATE, true); err != nil {
			return -1, err
		}
	}
	target, err := unix.Open(r.Base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &mount.Error{Op: "open", Path: r.Base, Err: err}
	}
	defer unix.Close(target)
	return tree, mount.Attach(tree, target)
}

// attach puts the prepared mounts at their targets in the new root.
func (s *state) attach() *initproto.Failure {
	for _, p := range s.mounts {
		target, f := s.target(&p)
		if f != nil {
			return f
		}
		err := keepMode(p, target)
		if err == nil {
			err = mount.Attach(p.tree, target)
		}
		unix.Close(target)
		if err != nil {
			return failText("mount", "error mounting \""+p.m.Source+"\" to rootfs at \""+p.m.Target+"\": "+err.Error(), err)
		}
		s.remember(p)
	}
	s.mounts = nil
	return nil
}

// keepMode gives a tmpfs without a mode of its own that of the directory it
// covers.
func keepMode(p prepared, target int) error {
	if p.m.Kind != initproto.MountNew || p.m.Type != "tmpfs" || p.made {
		return nil
	}
	for _, o := range p.m.Options {
		if len(o) > 5 && o[:5] == "mode=" {
			return nil
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(target, &st); err != nil {
		return err
	}
	return unix.Fchmodat(p.tree, ".", st.Mode&0o7777, 0)
}

// remember keeps the descriptors of file systems that later steps write to, so
// that these never have to be found by a path again.
func (s *state) remember(p prepared) {
	if p.m.Kind == initproto.MountNew {
		switch {
		case p.m.Type == "proc" && p.m.Target == "/proc":
			s.proc = p.tree
			return
		case p.m.Type == "tmpfs" && p.m.Target == "/dev":
			s.dev = p.tree
			return
		case p.m.Type == "devpts" && p.m.Target == "/dev/pts":
			s.pts = p.tree
			return
		}
	}
	unix.Close(p.tree)
}

// target opens the place of a mount and makes it when it is missing: a
// directory or an empty file, as the tree is one.
func (s *state) target(p *prepared) (int, *initproto.Failure) {
	var st unix.Stat_t
	if err := unix.Fstat(p.tree, &st); err != nil {
		return -1, fail("stat mount", err)
	}
	dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if p.m.Strict == initproto.TargetStrict {
		return s.strictTarget(p.m)
	}
	var fd int
	var err error
	if dir {
		fd, p.made, err = mount.MkdirAllMode(s.root, p.m.Target, 0o755)
	} else {
		fd, err = mount.CreateFile(s.root, p.m.Target, 0o755)
	}
	if err == nil && !dir {
		// The kernel says only ENOTDIR; users need to know which of the two is what.
		var t unix.Stat_t
		if err = unix.Fstat(fd, &t); err == nil && t.Mode&unix.S_IFMT == unix.S_IFDIR {
			unix.Close(fd)
			err = unix.ENOTDIR
		}
	}
	if err == nil {
		return fd, nil
	}
	text := "error mounting \"" + p.m.Source + "\" to rootfs at \"" + p.m.Target + "\": " + err.Error()
	if errors.Is(err, unix.ENOTDIR) {
		text += ": Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type"
	}
	return -1, failText("mount", text, err)
}

func (s *state) strictTarget(m *initproto.Mount) (int, *initproto.Failure) {
	flags := uint64(unix.O_PATH | unix.O_DIRECTORY)
	fd, err := mount.OpenStrict(s.root, m.Target, flags)
	if errors.Is(err, unix.ENOENT) {
		if made, mkerr := mount.MkdirAll(s.root, m.Target, 0o755); mkerr == nil {
			unix.Close(made)
			fd, err = mount.OpenStrict(s.root, m.Target, flags)
		}
	}
	if err != nil {
		return -1, failText("mount", "filesystem \""+m.Type+"\" must be mounted on ordinary directory: "+err.Error(), err)
	}
	return fd, nil
}

// parentOf opens (and makes) the directory of path and gives the last name.
func (s *state) parentOf(path string) (dir int, base string, err error) {
	at := len(path) - 1
	for at >= 0 && path[at] != '/' {
		at--
	}
	base = path[at+1:]
	if base == "" || base == "." || base == ".." {
		return -1, "", unix.EINVAL
	}
	dir, err = mount.MkdirAll(s.root, path[:at+1], 0o755)
	return dir, base, err
}

func (s *state) device(d *initproto.Device) *initproto.Failure {
	dir, base, err := s.parentOf(d.Path)
	if err != nil {
		return fail("device "+d.Path, err)
	}
	defer unix.Close(dir)
	err = unix.Mknodat(dir, base, d.Mode, int(d.Dev))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err == nil && (d.UID != 0 || d.GID != 0) {
		err = unix.Fchownat(dir, base, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW)
	}
	return fail("device "+d.Path, err)
}

func (s *state) links(pairs []string) *initproto.Failure {
	for i := 0; i+1 < len(pairs); i += 2 {
		dir, base, err := s.parentOf(pairs[i+1])
		if err != nil {
			return fail("link "+pairs[i+1], err)
		}
		err = unix.Symlinkat(pairs[i], dir, base)
		unix.Close(dir)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fail("link "+pairs[i+1], err)
		}
	}
	return nil
}

func (s *state) attr(path string, set uint64) *initproto.Failure {
	fd, err := mount.OpenIn(s.root, path, unix.O_PATH)
	if err != nil {
		return fail("attributes", err)
	}
	defer unix.Close(fd)
	return fail("attributes of "+path, mount.Change(fd, set, 0, 0, false))
}

// mkdir makes the working directory as docker does: missing parents too.
func (s *state) mkdir(path string) *initproto.Failure {
	fd, err := mount.MkdirAll(s.root, path, 0o755)
	if errors.Is(err, unix.ENOTDIR) {
		return failText("mkdir", "Cannot mkdir: "+path+" is not a directory", err)
	}
	if err != nil {
		return fail("mkdir "+path, err)
	}
	unix.Close(fd)
	return nil
}
