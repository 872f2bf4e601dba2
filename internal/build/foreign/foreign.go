// Package foreign owns the answer to steps for platforms that this machine
// cannot run by itself: the kernel runs them where an emulator is registered,
// and where not the failure says so.
package foreign

import (
	"context"
	"errors"

	"github.com/containerd/platforms"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/archutil"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Wrap gives the operation of a vertex, with that answer if it is a step for a
// platform that is not this machine's. What is cached needs no emulator.
func Wrap(v solver.Vertex, op solver.Op) solver.Op {
	def, ok := v.Sys().(*pb.Op)
	if !ok || def.GetExec() == nil || def.Platform == nil {
		return op
	}
	p := platforms.Normalize(ocispec.Platform{OS: def.Platform.OS, Architecture: def.Platform.Architecture, Variant: def.Platform.Variant})
	if platforms.Default().Match(p) {
		return op
	}
	return &step{Op: op, platform: p}
}

type step struct {
	solver.Op
	platform ocispec.Platform
}

// notAProgram is how a start ends whose file the kernel does not take.
const notAProgram = 255

// Exec runs the step, as the kernel may have an emulator registered for it.
func (o *step) Exec(ctx context.Context, j solver.JobContext, inputs []solver.Result) ([]solver.Result, error) {
	out, err := o.Op.Exec(ctx, j, inputs)
	if exit := (*gatewayapi.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode != notAProgram {
		return out, err
	}
	for _, p := range archutil.SupportedPlatforms(true) {
		if p.OS == o.platform.OS && p.Architecture == o.platform.Architecture {
			return out, err // the program itself is not one
		}
	}
	return out, &noEmulator{err, platforms.Format(o.platform)}
}

// noEmulator keeps the failure of the step, which holds what the step had mounted.
type noEmulator struct {
	err      error
	platform string
}

func (e *noEmulator) Unwrap() error { return e.err }

func (e *noEmulator) Error() string {
	return "cannot run a step for " + e.platform + " on this machine: no emulator is registered in /proc/sys/fs/binfmt_misc (on Debian: apt-get install qemu-user-static)"
}
