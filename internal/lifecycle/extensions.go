package lifecycle

import (
	"context"
	"errors"
	"syscall"

	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/runtime/spec"
	"github.com/wherry-engine/wherry/internal/secret"
	"github.com/wherry-engine/wherry/internal/undo"
)

// checkExtensions checks what annotations ask the engine for.
func (mk *maker) checkExtensions(h *apicontainer.HostConfig) error {
	_, err := container.HealthAction(h)
	return errors.Join(err, mk.secrets.Check(h.Annotations))
}

// placeSecrets shows a container that starts its secrets.
func (l *launcher) placeSecrets(c *container.Container, in *spec.Input, u *undo.Stack) error {
	placed, err := l.secrets.Place(c.ID, c.HostConfig.Annotations)
	if len(placed) > 0 || err != nil {
		u.Add(func() { l.dropSecrets(c) })
	}
	for _, p := range placed {
		in.Mounts = append(in.Mounts, spec.Mount{Source: p.Source, Destination: p.Destination, Type: "bind", ReadOnly: true, Mapped: true, DefaultPropagation: true})
	}
	return err
}

func (l *launcher) dropSecrets(c *container.Container) {
	if refs, err := secret.Refs(c.HostConfig.Annotations); err == nil && len(refs) > 0 {
		warn("release secrets", c.ID, l.secrets.Release(c.ID))
	}
}

// Health does what --health-on-failure asks for; see health.Actor.
type Health struct{ *Engine }

// Unhealthy ends or restarts a container. A kill leaves the rest to the
// restart policy, a stop is as the user's.
func (h Health) Unhealthy(ctx context.Context, id, action string) error {
	c, err := h.store.Get(id)
	if err != nil {
		return err
	}
	switch action {
	case "stop":
		return h.stop(ctx, c, container.CauseHealth, "", nil)
	case "restart":
		return h.restart(ctx, c, id, container.CauseHealth, "", nil)
	}
	c.Lock()
	c.Ending = asked(ctx, container.CauseHealth, syscall.SIGKILL)
	c.Unlock()
	return h.signal(ctx, c, syscall.SIGKILL)
}
