//go:build unix

package cli

import "syscall"

// become replaces this program by another; it returns only if that cannot be.
func become(path string, args, env []string) error { return syscall.Exec(path, args, env) } //nolint:gosec // what the user asked to run
