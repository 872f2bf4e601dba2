package executor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	ctdmount "github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/executor"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
)

// source is one mount of a step before it is mounted.
type source struct {
	executor.Mount
	mount ctdmount.Mount
}

// sources are the root and the other mounts of a step.
type sources struct {
	root  source
	other []source
}

// open asks BuildKit for what is to be mounted; release gives it back.
func (e *Executor) open(ctx context.Context, root executor.Mount, mounts []executor.Mount) (_ *sources, release func(), err error) {
	var releases []func() error
	release = func() {
		for _, f := range slices.Backward(releases) {
			f() //nolint:errcheck // what cannot be given back is swept at the next start
		}
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	one := func(m executor.Mount, readonly bool) (source, error) {
		if m.Src == nil {
			return source{}, fmt.Errorf("mount %s has no source", m.Dest)
		}
		if e.owners != nil {
			// Asked to read it, BuildKit would give, and keep, a layer that is not
			// finished as one of this step's own. What is for reading is mounted so.
			ctx, readonly = context.WithValue(ctx, forStep{}, true), false
		}
		ref, err := m.Src.Mount(ctx, readonly)
		if err != nil {
			return source{}, fmt.Errorf("failed to mount %s: %w", m.Dest, err)
		}
		list, done, err := ref.Mount()
		if err != nil {
			return source{}, fmt.Errorf("failed to mount %s: %w", m.Dest, err)
		}
		if done != nil {
			releases = append(releases, done)
		}
		if len(list) != 1 {
			return source{}, fmt.Errorf("mount %s consists of %d mounts", m.Dest, len(list))
		}
		return source{Mount: m, mount: list[0]}, nil
	}
	out := &sources{}
	if out.root, err = one(root, false); err != nil {
		return nil, nil, err
	}
	for _, m := range mounts {
		s, err := one(m, m.Readonly)
		if err != nil {
			return nil, nil, err
		}
		out.other = append(out.other, s)
	}
	return out, release, nil
}

// onThread runs f on a thread that has its own mount namespace and ends with f.
// A step's process is that thread's child, so it must not be any other's: those
// come and go as the runtime likes.
func (e *Executor) onThread(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	work := func() {
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err != nil {
			err = os.NewSyscallError("unshare", err)
		} else if err = mount.Isolate(unix.MS_PRIVATE); err == nil {
			err = f()
		}
		done <- err
	}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is of no other use
		if unix.Gettid() != unix.Getpid() {
			work()
			return
		}
		// The first thread does not end. While it is held here, the next is another.
		other := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(other)
			work()
		}()
		<-other
		runtime.UnlockOSThread()
	}()
	return <-done
}

// place mounts m at dir, a directory that is there for it, with the owners that
// a user namespace needs.
func (e *Executor) place(m ctdmount.Mount, dir string) error {
	switch m.Type {
	case "bind", "rbind", "":
		tree, err := e.clone(unix.AT_FDCWD, m.Source)
		if err != nil {
			return err
		}
		return attach(tree, dir)
	case "overlay":
		return e.placeOverlay(m, dir)
	}
	tree, err := mount.New(m.Type, m.Source, dataOf(m), 0)
	if err != nil {
		return err
	}
	return attach(tree, dir)
}

func attach(tree int, dir string) error {
	defer unix.Close(tree)
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(at)
	return mount.Attach(tree, at)
}

// placeOverlay mounts an overlay, of any number of layers, over the directory
// that all of them lie in, and moves it to its place.
func (e *Executor) placeOverlay(m ctdmount.Mount, dir string) error {
	var lower, extra []string
	var upper, work string
	for _, o := range m.Options {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "lowerdir":
			lower = strings.Split(value, ":")
		case "upperdir":
			upper = value
		case "workdir":
			work = value
		case "ro", "rw":
		default:
			extra = append(extra, o)
		}
	}
	o := mount.PackOverlay(lower, upper, work, extra)
	if e.owners != nil {
		tree, err := e.owners.Mount(&o)
		if err != nil {
			return err
		}
		return attach(tree, dir)
	}
	fd, err := o.Mount()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	tree, err := mount.Clone(fd, "", false)
	if err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Unmount(o.Base, unix.MNT_DETACH); err != nil {
		return os.NewSyscallError("umount", err)
	}
	return attach(tree, dir)
}

// dataOf are the options of a new file system; those of the mount itself are
// left to the one who binds it.
func dataOf(m ctdmount.Mount) []string {
	parsed := mount.ParseOptions(m.Options)
	return parsed.Data
}

// tree gives a mount of a step, or the part of it that its selector names, as
// a detached tree. Links inside the source lead nowhere else, whoever changes
// them meanwhile.
func (e *Executor) tree(s *source, scratch string, n int) (int, error) {
	dir := filepath.Join(scratch, strconv.Itoa(n))
	var root int
	switch t := s.mount.Type; {
	case t == "bind", t == "rbind", t == "":
		fd, err := unix.Open(s.mount.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: s.mount.Source, Err: err}
		}
		root = fd
	default:
		if err := os.Mkdir(dir, 0o700); err != nil {
			return -1, err
		}
		if err := e.place(s.mount, dir); err != nil {
			return -1, err
		}
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: dir, Err: err}
		}
		root = fd
	}
	defer unix.Close(root)
	part := root
	if filepath.Join("/", s.Selector) != "/" {
		fd, err := mount.OpenIn(root, s.Selector, unix.O_PATH)
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: s.Selector, Err: errors.Unwrap(err)}
		}
		defer unix.Close(fd)
		part = fd
	}
	var tree int
	var err error
	if s.mount.Type == "overlay" || e.mapped(s.mount.Source) {
		tree, err = mount.Clone(part, "", true) // its layers are mapped
	} else {
		tree, err = e.clone(part, "")
	}
	if err != nil {
		return -1, err
	}
	set := mount.ParseOptions(s.mount.Options).Set
	if s.Readonly {
		set |= unix.MOUNT_ATTR_RDONLY
	}
	if set != 0 {
		if err := mount.Change(tree, set, 0, 0, true); err != nil {
			unix.Close(tree)
			return -1, err
		}
	}
	return tree, nil
}
