// Package seccomp owns system call filters: it resolves docker's profiles for a
// capability set and compiles OCI filters to classic BPF programs, with
// libseccomp's meaning, for the native architecture and those that the kernel
// runs beside it (x86-64 with i386 and x32, aarch64 with arm).
package seccomp

import (
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Compile turns a profile into a program and the flags for
// seccomp(SECCOMP_SET_MODE_FILTER). A nil profile gives a nil program.
func Compile(s *specs.LinuxSeccomp) ([]unix.SockFilter, uint, error) {
	return nil, 0, errdefs.ErrNotImplemented
}

// Default gives docker's default profile resolved for a capability set
// ("CAP_SYS_ADMIN", ...).
func Default(caps []string) (*specs.LinuxSeccomp, error) { return nil, errdefs.ErrNotImplemented }

// Load resolves a profile in docker's JSON format, as given to
// --security-opt seccomp=FILE. It is nil when the profile restricts nothing.
func Load(profile []byte, caps []string) (*specs.LinuxSeccomp, error) {
	return nil, errdefs.ErrNotImplemented
}

// Cache keeps resolved profiles and compiled programs. The zero value is
// ready; it may be used by several goroutines. What it returns is shared and
// must not be changed.
type Cache struct{}

// Default is Default, resolved once per capability set.
func (c *Cache) Default(caps []string) (*specs.LinuxSeccomp, error) { return Default(caps) }

// Load is Load, resolved once per text and capability set.
func (c *Cache) Load(profile []byte, caps []string) (*specs.LinuxSeccomp, error) {
	return Load(profile, caps)
}

// Compile is Compile, done once per profile; fastest for a pointer that Default
// or Load of this cache returned.
func (c *Cache) Compile(s *specs.LinuxSeccomp) ([]unix.SockFilter, uint, error) { return Compile(s) }
