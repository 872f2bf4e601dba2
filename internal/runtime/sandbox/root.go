package sandbox

import (
	"errors"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/caps"
	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/runtime/initproto"
)

// makeTrees clones the plan's trees and mounts its root. What it returns is to
// be closed, also with an error.
func makeTrees(init *os.File, p *Plan) (fds []int, err error) {
	userns := -1
	if p.mapped() {
		if userns, err = userNamespace(init, p.UIDMappings, p.GIDMappings); err != nil {
			return nil, stepError("user namespace", err)
		}
		defer unix.Close(userns)
	}
	for _, t := range p.Trees {
		fd, err := t.clone(userns)
		if err != nil {
			return fds, stepError("clone "+t.Path, err)
		}
		fds = append(fds, fd)
	}
	if p.Root != nil {
		fd, err := mountTree(p, userns)
		if err != nil {
			return fds, stepError("mount root", err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// mapped tells whether any tree is to have other owners.
func (p *Plan) mapped() bool {
	if len(p.UIDMappings) == 0 {
		return false
	}
	if p.Root != nil {
		return true
	}
	for _, t := range p.Trees {
		if t.Mapped {
			return true
		}
	}
	return false
}

func (t *Tree) clone(userns int) (int, error) {
	fd, err := mount.Clone(unix.AT_FDCWD, t.Path, t.Recursive)
	if err != nil || !t.Mapped || userns < 0 {
		return fd, err
	}
	return fd, mapped(fd, userns, t.Path, t.Recursive)
}

// mapped maps a tree, or closes it and says what is too old for that.
func mapped(fd, userns int, path string, recursive bool) error {
	err := mount.Map(fd, userns, recursive)
	if err == nil {
		return nil
	}
	unix.Close(fd)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return &mount.Error{Op: tooOld, Path: path, Err: err}
	}
	return err
}

const tooOld = "this kernel or file system does not support id-mapped mounts, which user namespaces need (Linux 5.19 with ext4, xfs or btrfs, 6.3 with tmpfs): map the owners of"

// mountTree mounts an overlay as the host's root may, out of everyone's sight,
// and gives it as a detached tree. It happens in a mount namespace of a thread
// that ends with it. With userns >= 0 the layers show the owners it maps to:
// they all lie below Base, so one mapped mount serves them.
func mountTree(p *Plan, userns int) (int, error) {
	type result struct {
		tree int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is of no other use
		tree, err := assemble(p, userns)
		done <- result{tree, err}
	}()
	r := <-done
	return r.tree, r.err
}

// MountRoot mounts an overlay at target, for a runtime that wants its root as
// a directory of the host.
func MountRoot(o *mount.Overlay, target string) error {
	tree, err := mountTree(&Plan{Root: o}, -1)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	at, err := unix.Open(target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return mount.Attach(tree, at)
}

func assemble(p *Plan, userns int) (int, error) {
	o := p.Root
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return -1, err
	}
	if err := mount.Isolate(unix.MS_PRIVATE); err != nil {
		return -1, err
	}
	if userns >= 0 {
		layers := Tree{Path: o.Base, Mapped: true}
		tree, err := layers.clone(userns)
		if err != nil || o.Data == "" {
			return tree, err
		}
		defer unix.Close(tree)
		base, err := unix.Open(o.Base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		defer unix.Close(base)
		if err := mount.Attach(tree, base); err != nil {
			return -1, err
		}
	}
	if o.Data == "" {
		return mount.Clone(unix.AT_FDCWD, o.Base, true)
	}
	if userns >= 0 {
		// Overlay makes files as whoever mounts it, who must be someone that the
		// mapped layers know, with all rights nevertheless.
		if err := actAs(rootOf(p.UIDMappings), rootOf(p.GIDMappings)); err != nil {
			return -1, err
		}
	}
	root, err := o.Mount()
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	return mount.Clone(root, "", false)
}

// actAs gives this thread another owner for the files it makes, without the
// loss of rights that this brings.
func actAs(uid, gid int) error {
	permitted, _, err := caps.Current()
	if err != nil {
		return err
	}
	if err := unix.Setfsgid(gid); err != nil {
		return err
	}
	if err := unix.Setfsuid(uid); err != nil {
		return err
	}
	return caps.Apply(permitted, permitted, 0)
}

// userNamespace makes a user namespace with the mappings and no process in it.
func userNamespace(init *os.File, uids, gids []IDMap) (int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(pair[0])
		unix.Close(pair[1])
		return -1, err
	}
	// Init waits for its program, so that there is a process to ask.
	n := uintptr(null)
	p, err := forkInit(&Plan{CloneFlags: unix.CLONE_NEWUSER, UIDMappings: uids, GIDMappings: gids}, []uintptr{n, n, n, uintptr(pair[1]), init.Fd()}, nil, initproto.Name)
	unix.Close(pair[1])
	unix.Close(null)
	if err != nil {
		unix.Close(pair[0])
		return -1, err
	}
	p.control = pair[0]
	fd, err := unix.Open("/proc/"+strconv.Itoa(p.PID)+"/ns/user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	_ = p.abandon(nil)
	return fd, err
}
