package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/common"
)

// Options is what the server knows before the engine is ready.
type Options struct {
	Version       string // of the engine, for the Server header
	MinAPIVersion string // "" is the oldest there is
	Log           *slog.Logger
}

// Server answers the API. It may serve before the engine is ready: /_ping is
// answered at once, everything else waits for Ready.
type Server struct {
	http   http.Server
	log    *slog.Logger
	server string // the Server header
	min    version
	ready  chan struct{}
	once   sync.Once
	routes *router // set before ready is closed
	ids    atomic.Uint64

	builder Builder // with routes
}

// New makes a server that waits for Ready.
func New(o Options) (*Server, error) {
	s := &Server{log: o.Log, min: oldest, ready: make(chan struct{})}
	if s.log == nil {
		s.log = slog.Default()
	}
	if o.MinAPIVersion != "" {
		v, err := parseVersion(o.MinAPIVersion, oldest)
		if err != nil {
			return nil, fmt.Errorf("minimum API version %s: %w", o.MinAPIVersion, err)
		}
		s.min = v
	}
	s.server = fmt.Sprintf("Wherry/%s (%s)", o.Version, runtime.GOOS)
	// Streams have no end of their own: they end when the server goes down.
	base, stop := context.WithCancelCause(context.Background())
	s.http = http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Minute, // as dockerd: against clients that never finish their headers
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	// HTTP/2 without TLS is what clients of BuildKit speak.
	s.http.Protocols = new(http.Protocols)
	s.http.Protocols.SetHTTP1(true)
	s.http.Protocols.SetUnencryptedHTTP2(true)
	s.http.RegisterOnShutdown(func() { stop(errors.New("the engine is shutting down")) })
	return s, nil
}

// Ready hands over the engine and lets waiting requests go on. It has an
// effect only once.
func (s *Server) Ready(b Backends) {
	s.once.Do(func() {
		s.routes = newRouter(
			systemRoutes(&b), containerRoutes(&b), streamRoutes(&b), execRoutes(&b), imageRoutes(&b), networkRoutes(&b), fileRoutes(&b), volumeRoutes(&b), usageRoutes(&b), secretRoutes(&b), buildRoutes(&b), unservedRoutes())
		s.builder = b.Builder
		close(s.ready)
	})
}

// Serve answers on l until Shutdown; then it returns nil.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown closes the listeners, ends the streams and waits until the other
// requests have been answered or ctx ends; then it cuts them off. Hijacked connections are
// not waited for, they belong to the sessions.
func (s *Server) Shutdown(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		return s.http.Close()
	}
	return nil
}

// ServeHTTP routes one request.
func (s *Server) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w := &responseWriter{ResponseWriter: rw}
	given, rest := splitVersion(r.URL.Path)
	if rest == "/_ping" && (r.Method == get || r.Method == head) {
		s.ping(w, r, given)
		return
	}
	if clean := cleaned(r.URL.Path); clean != r.URL.Path {
		to := url.URL{Path: clean, RawQuery: r.URL.RawQuery}
		w.Header().Set("Location", to.String())
		w.WriteHeader(http.StatusMovedPermanently)
		return
	}
	select {
	case <-s.ready:
	case <-r.Context().Done(): // the client went away, or the engine before it was ready
		sendError(w, http.StatusServiceUnavailable, "wherryd is shutting down")
		return
	}
	defer s.recovered(w, r)
	if s.log.Enabled(r.Context(), slog.LevelDebug) {
		s.log.Debug("request", "method", r.Method, "path", r.URL.Path)
	}
	if r.Method == http.MethodOptions {
		if _, err := s.begin(w, given); err != nil {
			s.fail(w, r, given, err)
		}
		return
	}
	if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		s.builder.Direct(rw, r)
		return
	}
	one, name, ok := s.routes.find(r.Method, rest)
	if !ok {
		pageNotFound(w)
		return
	}
	v, err := s.begin(w, given)
	if err != nil {
		s.fail(w, r, given, err)
		return
	}
	if v.before(one.since) {
		pageNotFound(w)
		return
	}
	c := &call{Request: r, w: w, version: v, name: name}
	if c.query, err = form(r); err == nil {
		err = one.handle(c)
	}
	if err != nil {
		s.fail(w, r, given, err)
	}
}

// cleaned is the path without doubled slashes and dots; a slash at its end stays.
func cleaned(p string) string {
	c := path.Clean("/" + p)
	if strings.HasSuffix(p, "/") && c != "/" {
		c += "/"
	}
	return c
}

// form is the query, and the fields of a form body where there is one.
func form(r *http.Request) (url.Values, error) {
	if r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		q, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			return nil, invalid(err.Error())
		}
		return q, nil
	}
	r.Body = http.MaxBytesReader(nil, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		return nil, invalid(err.Error())
	}
	return r.Form, nil
}

// begin sets the headers that every answer has and checks the version.
func (s *Server) begin(w *responseWriter, given string) (version, error) {
	h := w.Header()
	h.Set("Server", s.server)
	h.Set("Api-Version", MaxVersion)
	h.Set("Ostype", runtime.GOOS)
	v := newest
	if given != "" {
		var err error
		if v, err = parseVersion(given, s.min); err != nil {
			return v, err
		}
	}
	h.Set("Docker-Experimental", "false")
	return v, nil
}

// builderVersion says which builder clients are to prefer: BuildKit.
const builderVersion = "2"

// ping does without the router and without the engine.
func (s *Server) ping(w *responseWriter, r *http.Request, given string) {
	if _, err := s.begin(w, given); err != nil {
		s.fail(w, r, given, err)
		return
	}
	h := w.Header()
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Swarm", "inactive")
	h.Set("Builder-Version", builderVersion)
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method == head {
		h.Set("Content-Length", "0")
		return
	}
	_, _ = w.Write([]byte("OK")) // a client that went away needs no answer
}

func pageNotFound(w *responseWriter) {
	sendError(w, http.StatusNotFound, "page not found")
}

func sendError(w *responseWriter, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(common.ErrorResponse{Message: message}) // a client that went away needs no answer
}

// fail answers with an error. When the answer has begun nothing can be said
// any more in HTTP; then the connection is cut so that the client notices.
func (s *Server) fail(w *responseWriter, r *http.Request, given string, err error) {
	code, known := status(err)
	if code >= http.StatusInternalServerError && r.Context().Err() == nil {
		id := s.ids.Add(1)
		level := slog.LevelDebug
		switch {
		case !known:
			level = slog.LevelError
		case code == http.StatusInternalServerError:
			level = slog.LevelWarn
		}
		s.log.Log(r.Context(), level, "request failed", "request", id, "method", r.Method, "path", r.URL.Path,
			"status", code, "error", err, "type", fmt.Sprintf("%T", err))
	}
	if w.begun {
		if errors.Is(err, http.ErrHijacked) || r.Context().Err() != nil {
			return
		}
		panic(http.ErrAbortHandler)
	}
	// Clients older than 1.24 print the body as it is.
	if v, verr := parseVersion(given, oldest); given != "" && verr != nil && v < oldest {
		http.Error(w, err.Error(), code)
		return
	}
	sendError(w, code, err.Error())
}

// recovered turns a panic of a handler into a 500.
func (s *Server) recovered(w *responseWriter, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p) // net/http's way to cut a connection
	}
	s.log.Error("handler panicked", "request", s.ids.Add(1), "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	if !w.begun {
		sendError(w, http.StatusInternalServerError, fmt.Sprintf("internal error: %v", p))
		return
	}
	panic(http.ErrAbortHandler)
}
