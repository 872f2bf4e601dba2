package lifecycle

import (
	"os"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/wherry-engine/wherry/internal/linux/ns"
	"github.com/wherry-engine/wherry/internal/runtime/spec"
)

// remapped tells whether the container gets a user namespace.
func (p *parts) remapped(h *apicontainer.HostConfig) bool {
	return len(p.cfg.UIDMaps) > 0 && !h.UsernsMode.IsHost()
}

// validateUser refuses what a user namespace makes impossible.
func (p *parts) validateUser(h *apicontainer.HostConfig) error {
	switch {
	case !p.remapped(h):
	case h.Privileged:
		return invalid("privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode")
	case h.NetworkMode.IsHost():
		return invalid("cannot share the host's network namespace when user namespaces are enabled")
	case h.PidMode.IsHost():
		return invalid("cannot share the host PID namespace when user namespaces are enabled")
	}
	return nil
}

// shareUser makes a container that joins a namespace of another one a member
// of its user namespace, too: only there it has a right to the other.
func (p *parts) shareUser(all map[specs.LinuxNamespaceType]spec.NS, h *apicontainer.HostConfig, pid int, ref string) error {
	own, err := ns.Own(pid, "user")
	switch {
	case err != nil:
		return err
	case !p.remapped(h):
		return nil // the engine's own user namespace has a right to every other
	case own:
		return errdefs.ErrConflict.WithMessage("cannot join a namespace of container " + ref + ", which is not in a user namespace: run this container with --userns=host")
	}
	all[specs.UserNamespace] = spec.NS{Kind: spec.Path, Path: ns.Path(pid, "user")}
	return nil
}

// giveToRoot lets the root of the container write to one of its files.
func (p *parts) giveToRoot(h *apicontainer.HostConfig, path string) error {
	if !p.remapped(h) {
		return nil
	}
	return os.Chown(path, spec.RootOf(p.cfg.UIDMaps), spec.RootOf(p.cfg.GIDMaps))
}
