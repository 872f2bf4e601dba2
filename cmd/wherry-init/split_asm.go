//go:build amd64 || arm64

package main

// vfork is clone3 with CLONE_VM and CLONE_VFORK. It returns 0 in the child; the
// parent ends in it once the child has executed another program or ended.
//
//go:noescape
func vfork(args *cloneArgs, size uintptr) (errno uintptr)
