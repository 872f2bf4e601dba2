package cp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/container"
	kmount "github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/linux/ns"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

// view is a container's root directory for one request.
type view struct {
	root   int      // O_PATH; closed by close
	ids    ids      // how owners read, while it runs
	mounts []string // where the user has mounted something; the engine's own mounts are not among them
	done   []func()
}

func (v *view) close() {
	unix.Close(v.root)
	for _, f := range v.done {
		f()
	}
}

// purpose says what a view is for.
type purpose int

const (
	look  purpose = iota // read, mounts included
	alter                // write, mounts included; the container cannot start meanwhile unless it runs
	bare                 // read, without anything that is mounted into the container
)

// open gives a view of the container's files. A running container is seen as
// it sees itself; the layers of another one are put together in a mount
// namespace that is gone when open returns. Either way the host's mount table
// never shows it.
func (f *Files) open(ctx context.Context, c *container.Container, p purpose) (*view, error) {
	for {
		if r := c.Snapshot(); r.State.Running && r.State.Pid != 0 {
			v, err := f.enter(c, &r, p)
			if err == nil || !errors.Is(err, errEnded) {
				return v, err
			}
		}
		c.Op.Lock() // not for long, unless files are written
		c.Lock()
		r, gone := c.Record, c.Gone()
		c.Unlock()
		switch {
		case gone:
			c.Op.Unlock()
			return nil, errdefs.ErrNotFound.WithMessage("No such container: " + r.ID)
		case r.State.Running && r.State.Pid != 0:
			if !alive(r.State.Pid) {
				// Its end is about to be recorded; what it left is complete.
				v, err := f.assembled(ctx, c, &r, p, func() {})
				c.Op.Unlock()
				return v, err
			}
			c.Op.Unlock()
			continue
		}
		if p == alter {
			return f.assembled(ctx, c, &r, p, c.Op.Unlock)
		}
		v, err := f.assembled(ctx, c, &r, p, func() {})
		c.Op.Unlock()
		return v, err
	}
}

func alive(pid int) bool { return unix.Kill(pid, 0) == nil }

func destinations(r *container.Record) []string {
	var list []string
	for _, m := range r.Mounts {
		list = append(list, m.Destination)
	}
	return list
}

// errEnded says that a process ended while it was looked at.
var errEnded = errors.New("the container's process has ended")

// enter opens the root of a running container's mount namespace. Not
// /proc/<pid>/root: a process may have changed its root directory.
func (f *Files) enter(c *container.Container, r *container.Record, p purpose) (*view, error) {
	target, err := unix.Open("/proc/"+strconv.Itoa(r.State.Pid)+"/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errEnded
	}
	defer unix.Close(target)
	var theirs, ours unix.Stat_t
	if err := unix.Fstat(target, &theirs); err != nil {
		return nil, err
	}
	if err := unix.Stat("/proc/self/ns/mnt", &ours); err != nil {
		return nil, err
	}
	// The process id may have been given to another process in between.
	if now := c.Snapshot(); now.State.Pid != r.State.Pid || theirs.Ino == ours.Ino {
		return nil, errEnded
	}
	v := &view{root: -1, mounts: destinations(r)}
	if v.ids, err = idsOf(r.State.Pid); err != nil {
		return nil, errEnded
	}
	err = ns.Aside(func() (err error) {
		if err = unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err = unix.Setns(target, unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("join the container's mount namespace: %w", err)
		}
		if p == bare {
			v.root, err = kmount.Clone(unix.AT_FDCWD, "/", false)
		} else if v.root, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			err = fmt.Errorf("open the container's root: %w", err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return v, nil
}

// assembled is a view of a container that does not run; c.Op is held. done is
// called by close, or now if it fails.
func (f *Files) assembled(ctx context.Context, c *container.Container, r *container.Record, p purpose, done func()) (*view, error) {
	root, leave, err := f.assemble(ctx, c, r, p)
	if p == look && errors.Is(err, unix.ENOENT) {
		// A place to mount on is not there yet. A start would make it, and so
		// does docker here.
		if root, leave, err = f.assemble(ctx, c, r, alter); err == nil {
			unix.Close(root)
			leave()
			root, leave, err = f.assemble(ctx, c, r, look)
		}
	}
	if err != nil {
		done()
		return nil, err
	}
	return &view{root: root, mounts: destinations(r), done: []func(){leave, done}}, nil
}

// tree is something that is mounted into a container.
type tree struct {
	fd   int
	dest string
	file bool
}

func (f *Files) assemble(ctx context.Context, c *container.Container, r *container.Record, p purpose) (root int, leave func(), err error) {
	w, err := f.snapshots.OpenWritable(r.ID, snapshot.Lower{})
	if err != nil {
		return -1, nil, err
	}
	var trees []tree
	leave = func() {}
	defer func() {
		for _, t := range trees {
			unix.Close(t.fd)
		}
		if err != nil {
			leave()
			root, leave, err = -1, nil, fmt.Errorf("open the files of container %s: %w", r.ID, err)
		}
	}()
	if p != bare {
		var mounted map[string]int
		if mounted, leave, err = f.mounts.Trees(ctx, c); err != nil {
			return -1, leave, err
		}
		if trees, err = sources(r, mounted, c.Dir()); err != nil {
			return -1, leave, err
		}
	}
	root = -1
	err = ns.Aside(func() (err error) {
		if err = private(); err != nil {
			return err
		}
		fd, err := stack(w, p == alter)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, t := range trees {
			if err := t.attach(fd, p == alter); err != nil {
				return err
			}
		}
		if p == alter && r.HostConfig.ReadonlyRootfs {
			if err := kmount.Change(fd, unix.MOUNT_ATTR_RDONLY, 0, 0, false); err != nil {
				return err
			}
		}
		root, err = kmount.Clone(fd, "", p != bare)
		return err
	})
	return root, leave, err
}

// private gives the thread a mount namespace of its own, from which nothing
// spreads.
func private() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	return kmount.Isolate(unix.MS_PRIVATE)
}

// stack mounts a container's layers and opens the result. For reading, the
// writable layer is just the topmost one, so that the container can be started
// at the same time.
func stack(w *snapshot.Writable, write bool) (int, error) {
	if w.Dir != "" {
		fd, err := kmount.Clone(unix.AT_FDCWD, w.Dir, false)
		if err != nil {
			return -1, err
		}
		at, err := unix.Open(w.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = kmount.Attach(fd, at)
			unix.Close(at)
		}
		if err != nil {
			unix.Close(fd)
			return -1, err
		}
		return fd, nil
	}
	o := kmount.PackOverlay(append([]string{w.Upper}, w.Lower...), "", "", nil)
	if write {
		o = kmount.PackOverlay(w.Lower, w.Upper, w.Work, w.MountOptions())
	}
	return o.Mount()
}

// sources puts what is mounted into a container in order, and with it the files
// that the engine writes for it. Also when it fails, all that is open is in trees.
func sources(r *container.Record, mounted map[string]int, dir string) (trees []tree, err error) {
	add := func(fd int, dest string) error {
		trees = append(trees, tree{fd: fd, dest: dest})
		var st unix.Stat_t
		err := unix.Fstat(fd, &st)
		trees[len(trees)-1].file = st.Mode&unix.S_IFMT != unix.S_IFDIR
		return err
	}
	taken := map[string]bool{}
	for _, m := range r.Mounts {
		taken[m.Destination] = true
		if fd, ok := mounted[m.Destination]; ok {
			err = errors.Join(err, add(fd, m.Destination))
		}
	}
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		dest := "/etc/" + name
		if taken[dest] || err != nil {
			continue
		}
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); err != nil {
			continue // it never ran
		}
		fd, err := kmount.Clone(unix.AT_FDCWD, path, false)
		if err == nil {
			err = add(fd, dest)
		}
		if err == nil {
			err = kmount.Change(fd, 0, 0, unix.MS_PRIVATE, false)
		}
		if err == nil && r.HostConfig.ReadonlyRootfs {
			err = kmount.Change(fd, unix.MOUNT_ATTR_RDONLY, 0, 0, false)
		}
		if err != nil {
			return trees, err
		}
	}
	return trees, err
}

// attach puts the tree in its place below root; with create it makes the place.
func (t *tree) attach(root int, create bool) (err error) {
	var at int
	switch {
	case !create:
		at, err = kmount.OpenIn(root, t.dest, unix.O_PATH)
	case t.file:
		at, err = kmount.CreateFile(root, t.dest, 0o644)
	default:
		at, err = kmount.MkdirAll(root, t.dest, 0o755)
	}
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return kmount.Attach(t.fd, at)
}
