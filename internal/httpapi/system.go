package httpapi

import (
	"net/http"

	"github.com/wherry-engine/wherry/internal/httpapi/older"
)

func systemRoutes(b *Backends) []route {
	h := systemHandlers{b}
	return []route{
		{method: get, path: "/version", handle: h.version},
		{method: get, path: "/info", handle: h.info},
		{method: get, path: "/events", handle: h.events},
	}
}

type systemHandlers struct{ *Backends }

func (h systemHandlers) version(c *call) error {
	return c.reply(http.StatusOK, h.Views.Version())
}

func (h systemHandlers) info(c *call) error {
	info, err := h.Views.Info(c.ctx())
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, older.Info(info, int(c.version)))
}
