// Package seccomp owns system call filters: it resolves docker's profiles for a
// capability set and compiles OCI filters to classic BPF programs, with
// libseccomp's meaning, for the native architecture and those that the kernel
// runs beside it (x86-64 with i386 and x32, aarch64 with arm).
package seccomp

import (
	"github.com/containerd/errdefs"
	profiles "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Default gives docker's default profile resolved for a capability set
// ("CAP_SYS_ADMIN", ...).
func Default(caps []string) (*specs.LinuxSeccomp, error) {
	return profiles.GetDefaultProfile(bounded(caps))
}

// Load resolves a profile in docker's JSON format, as given to
// --security-opt seccomp=FILE. It is nil when the profile restricts nothing.
func Load(profile []byte, caps []string) (*specs.LinuxSeccomp, error) {
	s, err := profiles.LoadProfile(string(profile), bounded(caps))
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	return s, nil
}

// bounded is a process with these capabilities, which is all that a profile's
// conditions look at.
func bounded(caps []string) *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}}
}
