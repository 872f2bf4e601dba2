//go:build !amd64 && !arm64

package main

import "golang.org/x/sys/unix"

func vfork(*cloneArgs, uintptr) uintptr { return uintptr(unix.ENOSYS) }
