package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"syscall"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/runtime/compile"
	"github.com/wherry-engine/wherry/internal/runtime/foreign"
	"github.com/wherry-engine/wherry/internal/runtime/hook"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
	"github.com/wherry-engine/wherry/internal/runtime/spec"
	"github.com/wherry-engine/wherry/internal/undo"
)

// foreign gives the runtime of a container that is not the engine's own, or nil.
func (p *parts) foreign(h *apicontainer.HostConfig) *foreign.Runtime {
	r, _ := p.cfg.Runtimes.Find(h.Runtime)
	return r
}

// validateRuntime checks the name.
func (p *parts) validateRuntime(h *apicontainer.HostConfig) error {
	switch {
	case h.Runtime == DefaultRuntime:
		return nil
	case p.foreign(h) == nil:
		return invalid("unknown or invalid runtime name: %s", h.Runtime)
	case p.remapped(h):
		return errdefs.ErrNotImplemented.WithMessage("user namespaces are served by the engine's own runtime: run this container with --userns=host, or without --runtime " + h.Runtime)
	}
	return nil
}

// plan turns the specification into what the keeper starts: a plan of the
// engine's own with the control group ready, or one for another runtime, which
// makes the group itself. joined is called when the process is in its group.
func (l *launcher) plan(in *spec.Input, s *specs.Spec, c *container.Container, n *networking, u *undo.Stack) (p *sandbox.Plan, joined func(), err error) {
	groups := groupsOf(in, s)
	if r := l.foreign(c.HostConfig); r != nil {
		if err := l.cgroups.Vacate(c.CgroupPath); err != nil {
			return nil, nil, err
		}
		u.Add(func() { warn("take back bundle", c.ID, r.Delete(context.Background(), c.ID)) })
		p, err = r.Create(c.ID, s, foreign.Root(in.Rootfs), foreign.User{Name: in.Config.User, Groups: groups}, n.held)
		return p, func() {}, err
	}
	hooks, err := hook.Wanted(s.Hooks)
	if err != nil {
		return nil, nil, err
	}
	group, warnings, err := l.cgroups.Create(c.CgroupPath, s.Linux.Resources)
	if err != nil {
		return nil, nil, err
	}
	u.Add(func() {
		// A keeper that is killed just then may leave a process that nobody knows.
		warn("take back control group", c.ID, group.Kill(syscall.SIGKILL))
		warn("take back control group", c.ID, group.Remove())
	})
	for _, w := range warnings {
		warn("limits", c.ID, fmt.Errorf("%s", w))
	}
	p, err = l.compile(in, s, group, n, compile.Options{Groups: groups, Hold: n.held || hooks})
	return p, group.Settle, err
}

// groupsOf are the further groups of the process: the user's, and those that
// its devices ask for.
func groupsOf(in *spec.Input, s *specs.Spec) []string {
	groups := slices.Clone(in.HostConfig.GroupAdd)
	for _, gid := range s.Process.User.AdditionalGids {
		if gid == s.Process.User.GID {
			continue // stands for the user's own, which is looked up
		}
		groups = append(groups, strconv.FormatUint(uint64(gid), 10))
	}
	return groups
}
