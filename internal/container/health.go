package container

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/api"
)

// HealthAction is what --health-on-failure asks for: none, kill, restart or stop.
func HealthAction(h *container.HostConfig) (string, error) {
	switch a := h.Annotations[api.AnnotationHealth]; a {
	case "":
		return "none", nil
	case "none", "kill", "restart", "stop":
		return a, nil
	default:
		return "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid health-on-failure action %q: it is none, kill, restart or stop", a))
	}
}
