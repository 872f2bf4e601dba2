package main

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/runtime/initproto"
)

// cloneArgs is the kernel's struct clone_args.
type cloneArgs struct {
	flags, _, _, parentTID, _, _, _, _, _, _, cgroup uint64
}

// child is not on the stack, which may move.
var child struct {
	args cloneArgs
	pid  int32 // as our parent sees it, written by the kernel
}

// split goes on in a process that is born with these CLONE_* flags and, unless it
// is -1, in this control group: on cgroup v2 to move there takes the kernel
// milliseconds. The process is our parent's child and tells it so.
//
// It has our memory, so that Go's runtime goes on as it was: its other threads
// stay behind, in the parent, which stands still and ends after the exec. For
// the exec there is neither a thread to wait for nor memory to free. That memory
// is not dumpable: of those who see the process by its number, which a further
// process of a container has in the container's namespace, only who may trace any
// process of the host's user namespace could look at it before it is left.
func split(flags uint64, group int) error {
	child.args = cloneArgs{
		flags:     flags | unix.CLONE_VM | unix.CLONE_VFORK | unix.CLONE_PARENT | unix.CLONE_PARENT_SETTID,
		parentTID: uint64(uintptr(unsafe.Pointer(&child.pid))),
	}
	if group >= 0 {
		child.args.flags |= unix.CLONE_INTO_CGROUP
		child.args.cgroup = uint64(group)
	}
	if e := vfork(&child.args, unsafe.Sizeof(child.args)); e != 0 {
		return unix.Errno(e)
	}
	return send(initproto.Born(int(child.pid)), -1)
}
