package httpapi

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/url"

	"github.com/moby/moby/api/types/build"
)

// Builder builds images. It writes its answers itself; an error that it
// returns is one that came before the answer has begun.
type Builder interface {
	// Session and GRPC take the connection over for BuildKit's protocols, Files for
	// package lend's; Direct serves a call of BuildKit's API that came over HTTP/2.
	Session(w http.ResponseWriter, r *http.Request) error
	GRPC(w http.ResponseWriter, r *http.Request) error
	Files(w http.ResponseWriter, r *http.Request) error
	Direct(w http.ResponseWriter, r *http.Request)
	// Build, Prune and Cancel get the query of a request of API version 1.minor.
	Build(w http.ResponseWriter, r *http.Request, query url.Values, minor int) error
	Prune(ctx context.Context, query url.Values) (*build.CachePruneReport, error)
	Cancel(id string) error
}

func buildRoutes(b *Backends) []route {
	h := buildHandlers{b}
	return []route{
		{method: post, path: "/build", handle: func(c *call) error { return h.Builder.Build(takeover{c.w}, c.Request, c.query, int(c.version)) }},
		{method: post, path: "/build/prune", handle: h.prune, since: 31},
		{method: post, path: "/build/cancel", handle: func(c *call) error { return h.Builder.Cancel(c.arg("id")) }},
		{method: post, path: "/session", handle: func(c *call) error { return c.overtaken(h.Builder.Session(takeover{c.w}, c.Request)) }},
		{method: post, path: "/wherry/build/files", handle: func(c *call) error { return c.overtaken(h.Builder.Files(takeover{c.w}, c.Request)) }},
		{method: post, path: "/grpc", handle: func(c *call) error { return c.overtaken(h.Builder.GRPC(takeover{c.w}, c.Request)) }},
	}
}

type buildHandlers struct{ *Backends }

func (h buildHandlers) prune(c *call) error {
	report, err := h.Builder.Prune(c.ctx(), c.query)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, report)
}

// takeover is an answer whose connection may be taken over.
type takeover struct{ *responseWriter }

// Hijack notes that it was.
func (t takeover) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(t.ResponseWriter).Hijack()
	if err == nil {
		t.begun = true
	}
	return conn, rw, err
}

// overtaken drops the error of a connection that is not HTTP's any more.
func (c *call) overtaken(err error) error {
	if c.w.begun {
		return nil
	}
	return err
}
