// Package cp owns the files of containers as seen from outside: the archive
// API behind `cp`, export, the changes that diff shows, and commit.
//
// A container's files are hostile: a process in it may exchange any of them at
// any moment. Therefore nothing here names a container's file by a host path.
// Work starts at a descriptor of the container's root directory (see view),
// every path from there is resolved by the kernel inside that root
// (openat2, no magic links), what was opened is looked at before it is read,
// and nothing of the container is executed, loaded or parsed on the host but
// /etc/passwd and /etc/group, bounded, when a client asks for the owner by name.
package cp

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/event"
	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

// Pauser freezes a container while it is committed; lifecycle does it.
type Pauser interface {
	Pause(ctx context.Context, ref string) error
	Unpause(ctx context.Context, ref string) error
}

// Mounts opens what is mounted into a container that does not run; lifecycle
// does it.
type Mounts interface {
	// Trees gives detached trees of the caller's own by their destinations; leave
	// is called when nothing of them is in use any more. c.Op is held.
	Trees(ctx context.Context, c *container.Container) (trees map[string]int, leave func(), err error)
}

// Files serves the files of all containers. Its methods may be called
// concurrently.
type Files struct {
	store     *container.Store
	images    *image.Store
	snapshots *snapshot.Store
	pauser    Pauser
	mounts    Mounts
	events    *event.Bus
}

// New joins the stores.
func New(store *container.Store, images *image.Store, pauser Pauser, mounts Mounts, bus *event.Bus) *Files {
	return &Files{store, images, images.Snapshots(), pauser, mounts, bus}
}

func (f *Files) publish(c *container.Container, action events.Action, extra map[string]string) {
	r := c.Snapshot()
	f.events.Container(action, r.ID, r.Attributes(extra))
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// missing is the error for a path that leads nowhere, in docker's words.
func missing(ref, path string) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("Could not find the file %s in container %s", path, ref))
}

// readOnly is the error for a place that cannot be written to.
func readOnly(onRoot bool) error {
	if onRoot {
		return errdefs.ErrPermissionDenied.WithMessage("container rootfs is marked read-only")
	}
	return errdefs.ErrPermissionDenied.WithMessage("mounted volume is marked read-only")
}

// clearer gives errors of paths the meaning they have for the client.
func clearer(err error, ref, path string) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return missing(ref, path)
	case errors.Is(err, unix.ENOTDIR):
		return invalid("lstat %s: not a directory", path)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG):
		return invalid("%s: %v", path, errors.Unwrap(err))
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EXDEV):
		return errdefs.ErrPermissionDenied.WithMessage(err.Error())
	}
	return system(err)
}

// system marks what the kernel refused for reasons of its own, such as a full
// disk: it is no fault of the request, and none of the engine either.
func system(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errdefs.ErrInternal.WithMessage(err.Error())
	}
	return err
}
