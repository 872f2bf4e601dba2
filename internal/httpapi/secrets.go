package httpapi

import (
	"net/http"

	"github.com/wherry-engine/wherry/api"
)

// secretRoutes are an extension: docs/extensions.md. /secrets is the swarm's.
func secretRoutes(b *Backends) []route {
	h := secretHandlers{b}
	return []route{
		{method: get, path: "/wherry/secrets", handle: func(c *call) error { return c.reply(http.StatusOK, h.Secrets.List()) }},
		{method: post, path: "/wherry/secrets/create", handle: h.create},
		{method: get, path: "/wherry/secrets/{name}", handle: h.inspect},
		{method: remove, path: "/wherry/secrets/{name}", handle: func(c *call) error { return c.done(h.Secrets.Remove(c.name)) }},
	}
}

type secretHandlers struct{ *Backends }

func (h secretHandlers) create(c *call) error {
	var r api.SecretRequest
	if err := c.json(&r); err != nil {
		return err
	}
	s, err := h.Secrets.Create(r)
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, s)
}

func (h secretHandlers) inspect(c *call) error {
	s, err := h.Secrets.Inspect(c.name)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, s)
}
