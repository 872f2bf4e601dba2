package httpapi

import (
	"context"
	"net/http"

	"github.com/moby/moby/api/types/jsonstream"
)

// Bootstrapper makes base images from a distribution's mirror.
type Bootstrapper interface {
	Bootstrap(ctx context.Context, name, mirror string, include []string, progress func(jsonstream.Message)) (id string, err error)
}

// bootstrapRoutes are an extension: docs/extensions.md.
func bootstrapRoutes(b *Backends) []route {
	return []route{{method: http.MethodPost, path: "/wherry/images/bootstrap", handle: func(c *call) error {
		p := progress{c}
		id, err := b.Bootstrapper.Bootstrap(c.ctx(), c.arg("name"), c.arg("mirror"), c.query["include"], p.send)
		if err != nil {
			return p.end(err)
		}
		p.send(jsonstream.Message{Status: id})
		return nil
	}}}
}
