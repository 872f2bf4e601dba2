package httpapi

import (
	"fmt"
	"io"
	"net/http"

	"github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/api"
	"github.com/wherry-engine/wherry/internal/frame"
	"github.com/wherry-engine/wherry/internal/session"
)

func execRoutes(b *Backends) []route {
	h := execHandlers{b}
	return []route{
		{method: post, path: "/containers/{name}/exec", handle: h.create},
		{method: post, path: "/exec/{name}/start", handle: h.start},
		{method: post, path: "/exec/{name}/resize", handle: h.resize},
		{method: get, path: "/exec/{name}/json", handle: h.inspect},
	}
}

type execHandlers struct{ *Backends }

func (h execHandlers) create(c *call) error {
	var req api.ExecRequest
	if err := c.json(&req); err != nil {
		return err
	}
	if len(req.Cmd) == 0 {
		return invalid("No exec command specified")
	}
	if c.version.before(42) {
		req.ConsoleSize = nil
	}
	id, err := h.Sessions.ExecCreate(c.lasting(), c.name, &req)
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, container.ExecCreateResponse{ID: id})
}

func (h execHandlers) start(c *call) error {
	var req container.ExecStartRequest
	if err := c.json(&req); err != nil {
		return err
	}
	if c.version.before(42) || !req.Tty {
		req.ConsoleSize = nil
	}
	hijack, taken := c.hijack(c.w.Header())
	err := h.Sessions.ExecStart(c.lasting(), c.name, session.ExecStartOptions{
		Detach: req.Detach, Tty: req.Tty, ConsoleSize: req.ConsoleSize,
	}, hijack)
	conn := taken()
	if conn == nil {
		return err
	}
	if err != nil {
		// The status is sent, so the words go where the output would.
		var out io.Writer = conn
		if !req.Tty {
			out, _ = frame.Writers(conn)
		}
		_, _ = fmt.Fprintf(out, "%v\r\n", err) // a client that went away needs no answer
		conn.Close()
	}
	return nil
}

func (h execHandlers) resize(c *call) error {
	height, width, err := c.size()
	if err != nil {
		return err
	}
	return h.Sessions.ExecResize(c.ctx(), c.name, height, width)
}

func (h execHandlers) inspect(c *call) error {
	r, err := h.Sessions.ExecInspect(c.ctx(), c.name)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, r)
}
