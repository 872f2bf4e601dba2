package build

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc"

	"github.com/wherry-engine/wherry/internal/build/conn"
)

// maxMessage bounds a message of the wire; BuildKit's clients send up to that.
const maxMessage = 16 << 20

// server makes the gRPC server of BuildKit's API.
func (e *engine) server() *grpc.Server {
	s := grpc.NewServer(
		grpc.ChainUnaryInterceptor(grpcerrors.UnaryServerInterceptor, e.intercept),
		grpc.ChainStreamInterceptor(grpcerrors.StreamServerInterceptor, e.arrivals.Intercept, e.answers.Intercept),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	e.control.Register(s)
	return s
}

// direct is the server for calls, one for all connections.
func (e *engine) direct() *grpc.Server {
	e.serving.Do(func() { e.http2 = e.server() })
	return e.http2
}

// intercept changes what clients ask for where the engine knows better.
func (e *engine) intercept(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	switch r := req.(type) {
	case *controlapi.SolveRequest:
		if err := e.amend(r); err != nil {
			e.refusals.refuse(r, err)
		}
		return e.tracked(ctx, r, func(ctx context.Context, r *controlapi.SolveRequest) (*controlapi.SolveResponse, error) {
			out, err := next(ctx, r)
			resp, _ := out.(*controlapi.SolveResponse) // nil with an error
			return resp, err
		})
	case *gatewayapi.PingRequest:
		return e.refusals.ping(ctx, func(ctx context.Context) (any, error) { return next(ctx, req) })
	case *controlapi.UpdateBuildHistoryRequest, *controlapi.DiskUsageRequest:
		if err := e.answers.Settle(ctx); err != nil {
			return nil, err
		}
	}
	return next(ctx, req)
}

// tracked has solve make a build, which is tracked until it is over.
func (e *engine) tracked(ctx context.Context, r *controlapi.SolveRequest, solve func(context.Context, *controlapi.SolveRequest) (*controlapi.SolveResponse, error)) (*controlapi.SolveResponse, error) {
	return e.answers.Solve(ctx, r, func(ctx context.Context) (_ *controlapi.SolveResponse, err error) {
		begin := e.arrivals.Come(r.Ref)
		defer begin() // if it does not
		ctx, done := e.track(ctx)
		defer func() { done(err) }()
		defer e.contexts.Forget(r.Session)
		begin()
		return solve(ctx, r)
	})
}

// amend gives a request the engine's defaults: a base image that is here is
// taken as it is, as docker does, unless the client asks for a pull. Devices are
// those that specifications describe now, and networks are the engine's.
func (e *engine) amend(r *controlapi.SolveRequest) error {
	if err := e.caches.Check(r); err != nil {
		return err
	}
	if devices := e.exec.Devices(); devices != nil {
		devices.Refresh() //nolint:errcheck // a step that wants a device tells
	}
	if r.FrontendAttrs == nil {
		r.FrontendAttrs = map[string]string{}
	}
	switch r.FrontendAttrs["image-resolve-mode"] {
	case "", pb.AttrImageResolveModeDefault:
		r.FrontendAttrs["image-resolve-mode"] = pb.AttrImageResolveModePreferLocal
	}
	if err := e.hosts(r.FrontendAttrs); err != nil {
		return err
	}
	return e.network(r.FrontendAttrs)
}

// hosts writes the engine's address where a name is to lead to the host.
func (e *engine) hosts(attrs map[string]string) error {
	const host = "=host-gateway"
	list := strings.Split(attrs[attrHosts], ",")
	for i, h := range list {
		name, ok := strings.CutSuffix(h, host)
		if !ok {
			continue
		}
		if len(e.gateway) == 0 {
			return errdefs.ErrInvalidArgument.WithMessage("unable to derive the IP value for host-gateway")
		}
		list[i] = name + "=" + e.gateway[0].String()
		attrs[attrHosts] = strings.Join(list, ",")
	}
	return nil
}

// attrNetwork and attrHosts are options of BuildKit's frontends.
const (
	attrNetwork = "force-network-mode"
	attrHosts   = "add-hosts"
)

// network replaces a mode that BuildKit does not know, the name of a network.
func (e *engine) network(attrs map[string]string) error {
	name := attrs[attrNetwork]
	switch name {
	case "", "none", "host", "sandbox":
		return nil
	}
	if strings.HasPrefix(name, "container:") {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("network mode %q is not supported by builds: connect the container to a network, and build on that", name))
	}
	host, pass, err := e.exec.Network(name)
	if err != nil {
		return err
	}
	delete(attrs, attrNetwork)
	if attrs[attrHosts] != "" {
		attrs[attrHosts] += ","
	}
	attrs[attrHosts] += host + "=" + pass.String()
	return nil
}

// Session serves POST /session: the connection becomes a client's session, in
// which the builder asks it for files, credentials and secrets.
func (b *Builder) Session(w http.ResponseWriter, r *http.Request) error {
	e, err := b.open(r.Context())
	if err != nil {
		return err
	}
	if err := upgrades(r); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(r.Context()))
	defer cancel(nil)
	return e.sessions.HandleHTTPRequest(ctx, conn.Attend(w, func() { cancel(errGone) }), r)
}

// errGone ends what a client asked for that is not there any more.
var errGone = fmt.Errorf("the client is gone: %w", context.Canceled)

// GRPC serves POST /grpc: the connection becomes one of BuildKit's API.
func (b *Builder) GRPC(w http.ResponseWriter, r *http.Request) error {
	e, err := b.open(r.Context())
	if err != nil {
		return err
	}
	if err := upgrades(r); err != nil {
		return err
	}
	h, ok := w.(http.Hijacker)
	if !ok {
		return errors.New("this connection cannot be taken over")
	}
	c, rw, err := h.Hijack()
	if err != nil {
		return err
	}
	if _, err := fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"); err != nil {
		c.Close()
		return nil //nolint:nilerr // the client went away
	}
	e.direct().Serve(conn.Listener(c, rw.Reader)) //nolint:errcheck // its end is the connection's
	return nil
}

// Files serves lend.Path: the connection becomes one over which a client on this
// machine lends files.
func (b *Builder) Files(w http.ResponseWriter, r *http.Request) error { return b.desk.Serve(w, r) }

func upgrades(r *http.Request) error {
	proto := r.Header.Get("Upgrade")
	switch {
	case proto == "":
		return errdefs.ErrInvalidArgument.WithMessage("no upgrade proto in request")
	case !strings.EqualFold(proto, "h2c"):
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("protocol %s not supported", proto))
	}
	return nil
}
