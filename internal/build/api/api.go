// Package api owns the HTTP side of builds: it reads what POST /build asks for,
// and writes progress and errors as the stream of JSON objects that docker's
// clients expect.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	apibuild "github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/jsonstream"

	"github.com/wherry-engine/wherry/internal/build/buildcontext"
	"github.com/wherry-engine/wherry/internal/build/request"
)

// Connections are those that builders' clients take over; see httpapi.Builder.
type Connections interface {
	Session(w http.ResponseWriter, r *http.Request) error
	GRPC(w http.ResponseWriter, r *http.Request) error
	Files(w http.ResponseWriter, r *http.Request) error
	Direct(w http.ResponseWriter, r *http.Request)
}

// Builder makes builds.
type Builder interface {
	Connections
	// Solve is a build of version 2: its context comes through its session, as the
	// body's tar, or by Upload; its progress goes to trace.
	Solve(ctx context.Context, r *request.Build, body io.Reader, trace func(any) error) (imageID string, err error)
	// Upload brings the context of a build as a tar; it returns when that was read.
	Upload(ctx context.Context, build string, body io.Reader) error
	// Classic is a build of version 1. The body, if the request has no Remote, is
	// the context's tar; messages are lines of the classic builder's output.
	Classic(ctx context.Context, r *request.Build, body io.Reader, message func(jsonstream.Message)) error
	Cancel(id string) error
	Reduce(ctx context.Context, p request.Prune) (*apibuild.CachePruneReport, error)
}

// Server serves the routes of builds; see httpapi.Builder.
type Server struct{ Builder }

// stream is an answer of JSON objects. Nothing is sent before the first one.
type stream struct {
	w     http.ResponseWriter
	begun bool
}

func (s *stream) send(m jsonstream.Message) {
	var v any = m
	if m.Error != nil {
		v = struct {
			jsonstream.Message
			Text string `json:"error"` // where clients before 1.48 look
		}{m, m.Error.Message}
	}
	data, err := json.Marshal(v)
	if err != nil {
		return // a type of ours that cannot be written: there is none
	}
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", "application/json")
	}
	s.w.Write(append(data, '\r', '\n'))     //nolint:errcheck // the build's context ends with the client
	http.NewResponseController(s.w).Flush() //nolint:errcheck // as above
}

// end tells an error in the stream, once there is one. That of a step has the
// step's exit code, which becomes the client's.
func (s *stream) end(err error) error {
	if err == nil || !s.begun {
		return err
	}
	out := &jsonstream.Error{Message: err.Error()}
	if step := (*request.StepError)(nil); errors.As(err, &step) {
		out.Code = step.Code
	}
	s.send(jsonstream.Message{Error: out})
	return nil
}

// Build serves POST /build.
func (s Server) Build(w http.ResponseWriter, r *http.Request, query url.Values, minor int) error {
	b, err := request.Read(query, r.Header.Get("X-Registry-Config"), minor)
	if err != nil {
		return err
	}
	// The answer begins while the context is still being read.
	if err := http.NewResponseController(w).EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	out := &stream{w: w}
	switch version := query.Get("version"); apibuild.BuilderVersion(version) {
	case apibuild.BuilderBuildKit:
		if id, ok := strings.CutPrefix(b.BuildID, buildcontext.UploadPrefix); ok {
			return drain(w, r, s.Upload(r.Context(), id, r.Body))
		}
		return out.end(drain(w, r, s.solve(r.Context(), b, r.Body, out)))
	case "", apibuild.BuilderV1:
		if b.Quiet {
			return s.quiet(r, b, out)
		}
		return out.end(s.classic(r, b, out, out.send))
	default:
		return errdefs.ErrInvalidArgument.WithMessage("invalid version " + version)
	}
}

// patience is how long a client may pause that still sends the context of a
// build that has failed.
const patience = 5 * time.Second

// drain reads what is left of the body of a request that has failed, before it
// is answered: most clients read no answer before they have sent everything.
func drain(w http.ResponseWriter, r *http.Request, err error) error {
	if err == nil {
		return nil
	}
	c, buffer := http.NewResponseController(w), make([]byte, 64<<10)
	for c.SetReadDeadline(time.Now().Add(patience)) == nil {
		if _, rerr := r.Body.Read(buffer); rerr != nil {
			break
		}
	}
	return err
}

// classic makes a build.
func (s Server) classic(r *http.Request, b *request.Build, out *stream, message func(jsonstream.Message)) error {
	return drain(out.w, r, s.Classic(r.Context(), b, r.Body, message))
}

// quiet answers with the image's id alone, or with the output when it failed.
func (s Server) quiet(r *http.Request, b *request.Build, out *stream) error {
	var said strings.Builder
	id := ""
	err := s.classic(r, b, out, func(m jsonstream.Message) {
		said.WriteString(m.Stream)
		if m.Aux != nil {
			var v apibuild.Result
			if json.Unmarshal(*m.Aux, &v) == nil && v.ID != "" {
				id = v.ID
			}
		}
	})
	if err != nil {
		if said.Len() > 0 {
			out.send(jsonstream.Message{Stream: said.String()})
		}
		return out.end(err)
	}
	out.send(jsonstream.Message{Stream: id + "\n"})
	return nil
}

func (s Server) solve(ctx context.Context, b *request.Build, body io.Reader, out *stream) error {
	raw := func(v any, id string) error {
		data, err := json.Marshal(v)
		if err != nil {
			return err
		}
		msg := json.RawMessage(data)
		out.send(jsonstream.Message{ID: id, Aux: &msg})
		return nil
	}
	id, err := s.Solve(ctx, b, body, func(v any) error { return raw(v, "moby.buildkit.trace") })
	if err != nil || id == "" {
		return err
	}
	return raw(apibuild.Result{ID: id}, "moby.image.id")
}

// Cancel serves POST /build/cancel.
func (s Server) Cancel(id string) error {
	if id == "" {
		return errdefs.ErrInvalidArgument.WithMessage("build ID not provided")
	}
	return s.Builder.Cancel(id)
}

// Prune serves POST /build/prune.
func (s Server) Prune(ctx context.Context, query url.Values) (*apibuild.CachePruneReport, error) {
	p, err := request.ReadPrune(query, time.Now())
	if err != nil {
		return nil, err
	}
	return s.Reduce(ctx, p)
}
