package build

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/entitlements"
	apicontainer "github.com/moby/moby/api/types/container"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/wherry-engine/wherry/internal/build/buildcontext"
	"github.com/wherry-engine/wherry/internal/build/caches"
	"github.com/wherry-engine/wherry/internal/build/flatten"
	"github.com/wherry-engine/wherry/internal/build/request"
)

// jobs are the builds that can be cancelled by their id.
type jobs struct {
	mu      sync.Mutex
	cancels map[string]func(error)
}

func (j *jobs) add(id string, cancel func(error)) func() {
	if id == "" {
		return func() {}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.cancels == nil {
		j.cancels = map[string]func(error){}
	}
	j.cancels[id] = cancel
	return func() {
		j.mu.Lock()
		delete(j.cancels, id)
		j.mu.Unlock()
	}
}

var errCancelled = errdefs.ErrAborted.WithMessage("the build was cancelled")

// Cancel ends the build with that id. One that is not known, or is over, is
// no error: the client's wish is fulfilled.
func (b *Builder) Cancel(id string) error {
	b.jobs.mu.Lock()
	cancel := b.jobs.cancels[id]
	b.jobs.mu.Unlock()
	if cancel != nil {
		cancel(errCancelled)
	}
	return nil
}

// Upload brings the context of a build of version 2; see api.Builder.
func (b *Builder) Upload(ctx context.Context, build string, body io.Reader) error {
	return b.uploads.Bring(ctx, build, body)
}

// Solve is a build of version 2; see api.Builder.
func (b *Builder) Solve(ctx context.Context, r *request.Build, body io.Reader, trace func(any) error) (string, error) {
	e, err := b.open(ctx)
	if err != nil {
		return "", err
	}
	attrs, err := frontendAttrs(r)
	if err != nil {
		return "", err
	}
	session := r.Session
	if session == "" { // nothing can be asked of the client: what it sent has to do
		own, err := e.openSession(ctx, r)
		if err != nil {
			return "", err
		}
		defer own.close()
		session = own.ID()
	}
	switch r.Remote {
	case "client-session":
		if r.Session == "" {
			return "", errdefs.ErrInvalidArgument.WithMessage("a build with remote=client-session needs a session: POST /session first")
		}
	case "upload-request", "":
		if r.Remote != "" {
			var done func()
			if body, done, err = b.uploads.Await(ctx, r.BuildID); err != nil {
				return "", err
			}
			defer done()
		}
		withdraw, err := e.contexts.Offer(session, strings.Join(r.Tags, " "), body)
		if err != nil {
			return "", err
		}
		defer withdraw()
		attrs["dockerfilekey"] = buildcontext.Posted // it is in there, too
	default:
		attrs["context"] = r.Remote
	}
	req := &controlapi.SolveRequest{Ref: identity.NewID(), Session: session, Frontend: "dockerfile.v0", FrontendAttrs: attrs, Cache: cacheOptions(r)}
	if r.NetworkMode == "host" {
		req.Entitlements = append(req.Entitlements, string(entitlements.EntitlementNetworkHost))
	}
	if req.Exporters, err = exporters(r); err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer b.jobs.add(r.BuildID, cancel)()
	resp, err := e.solve(ctx, req, func(s *controlapi.StatusResponse) error {
		data, err := proto.Marshal(s)
		if err != nil {
			return err
		}
		return trace(data)
	})
	if err != nil {
		return "", clientError(err)
	}
	if id := resp[exptypes.ExporterImageConfigDigestKey]; id != "" {
		return id, nil
	}
	return resp[exptypes.ExporterImageDigestKey], nil
}

// solve runs one request and hands its progress on.
func (e *engine) solve(ctx context.Context, req *controlapi.SolveRequest, status func(*controlapi.StatusResponse) error) (out map[string]string, err error) {
	if err := e.amend(req); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(e.running, func() { cancel(errClosed) })()
	g, inner := errgroup.WithContext(ctx)
	g.Go(func() error {
		resp, err := e.tracked(inner, req, e.control.Solve)
		if err == nil {
			out = resp.ExporterResponse
		}
		return err
	})
	g.Go(func() error {
		// Not the group's context: the last words of a failed build are wanted.
		return e.arrivals.Follow(ctx, func() string { return req.Ref }, func() error {
			return e.control.Status(&controlapi.StatusRequest{Ref: req.Ref}, &statusStream{ctx: ctx, send: status})
		})
	})
	if err = g.Wait(); err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	return out, err
}

// statusStream is the receiving end of a status without a connection.
type statusStream struct {
	grpc.ServerStream
	ctx  context.Context
	send func(*controlapi.StatusResponse) error
}

// Send hands a message on.
func (s *statusStream) Send(m *controlapi.StatusResponse) error { return s.send(m) }

// SendMsg hands a message on.
func (s *statusStream) SendMsg(m any) error {
	r, ok := m.(*controlapi.StatusResponse)
	if !ok {
		return fmt.Errorf("unexpected message %T", m)
	}
	return s.send(r)
}

// Context is the build's.
func (s *statusStream) Context() context.Context { return s.ctx }

// SendHeader has nowhere to go.
func (s *statusStream) SendHeader(metadata.MD) error { return nil }

// SetHeader has nowhere to go.
func (s *statusStream) SetHeader(metadata.MD) error { return nil }

// SetTrailer has nowhere to go.
func (s *statusStream) SetTrailer(metadata.MD) {}

// exporters turns outputs into BuildKit's; the engine's own images by default.
func exporters(r *request.Build) ([]*controlapi.Exporter, error) {
	if len(r.Outputs) > 1 {
		return nil, errdefs.ErrInvalidArgument.WithMessage("multiple outputs not supported")
	}
	attrs := map[string]string{}
	kind := exporterMoby
	for _, o := range r.Outputs {
		kind = o.Type
		attrs = maps.Clone(o.Attrs)
		if attrs == nil {
			attrs = map[string]string{}
		}
		// "cacheonly" keeps the result in the cache alone.
		if kind == "cacheonly" {
			return nil, nil
		}
	}
	if kind == exporterMoby && len(r.Tags) > 0 {
		attrs[string(exptypes.OptKeyName)] = strings.Join(r.Tags, ",")
	}
	if r.Squash {
		if kind != exporterMoby {
			return nil, errdefs.ErrInvalidArgument.WithMessage("squash is for an image in the engine, not for an output of type " + kind)
		}
		attrs[flatten.Option] = "true"
	}
	return []*controlapi.Exporter{{Type: kind, Attrs: attrs}}, nil
}

// cacheOptions say whether the image carries its own cache.
func cacheOptions(r *request.Build) *controlapi.CacheOptions {
	o := &controlapi.CacheOptions{}
	if v := r.BuildArgs["BUILDKIT_INLINE_CACHE"]; v != nil {
		if on, err := strconv.ParseBool(*v); err == nil && on {
			o.Exports = append(o.Exports, &controlapi.CacheOptionsEntry{Type: "inline"})
		}
	}
	return o
}

// frontendAttrs are the options of the Dockerfile frontend.
func frontendAttrs(r *request.Build) (map[string]string, error) {
	a := map[string]string{}
	set := func(key, value string) {
		if value != "" {
			a[key] = value
		}
	}
	set("target", r.Target)
	set("platform", r.Platform)
	set("cgroup-parent", r.CgroupParent)
	if r.Dockerfile != "" && r.Dockerfile != "." {
		a["filename"] = r.Dockerfile
	}
	if r.NoCache {
		a["no-cache"] = ""
	}
	for k, v := range r.BuildArgs {
		if v != nil {
			a["build-arg:"+k] = *v
		}
	}
	for k, v := range r.Labels {
		a["label:"+k] = v
	}
	if r.Pull {
		a["image-resolve-mode"] = pb.AttrImageResolveModeForcePull
	}
	switch r.NetworkMode {
	case "", "default", "bridge":
	default:
		a[attrNetwork] = r.NetworkMode
	}
	if len(r.ExtraHosts) > 0 {
		hosts, err := extraHosts(r.ExtraHosts)
		if err != nil {
			return nil, err
		}
		a[attrHosts] = hosts
	}
	// Images whose cache may be used; the frontend imports it when it needs it.
	var imports []client.CacheOptionsEntry
	for _, ref := range r.CacheFrom {
		imports = append(imports, client.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": ref}})
	}
	if len(imports) > 0 {
		text, err := json.Marshal(imports)
		if err != nil {
			return nil, err
		}
		a[caches.AttrImports] = string(text)
	}
	if r.ShmSize > 0 {
		a["shm-size"] = strconv.FormatInt(r.ShmSize, 10)
	}
	set("ulimit", ulimits(r.Ulimits))
	for key, n := range map[string]int64{
		"memory": r.Memory, "memswap": r.MemorySwap, "cpushares": r.CPUShares, "cpuperiod": r.CPUPeriod, "cpuquota": r.CPUQuota,
	} {
		if n != 0 {
			a[key] = strconv.FormatInt(n, 10)
		}
	}
	set("cpusetcpus", r.CPUSetCPUs)
	set("cpusetmems", r.CPUSetMems)
	return a, nil
}

func ulimits(list []*apicontainer.Ulimit) string {
	var out []string
	for _, u := range list {
		out = append(out, u.String())
	}
	return strings.Join(out, ",")
}

// extraHosts writes name:address pairs as the frontend reads them.
func extraHosts(list []string) (string, error) {
	var out []string
	for _, h := range list {
		name, addr, ok := strings.Cut(h, ":")
		if !ok {
			name, addr, ok = strings.Cut(h, "=")
		}
		if !ok || name == "" || addr == "" {
			return "", errdefs.ErrInvalidArgument.WithMessage("invalid host " + h)
		}
		out = append(out, name+"="+strings.Trim(addr, "[]"))
	}
	return strings.Join(out, ","), nil
}

// Direct serves a gRPC call that came over HTTP/2 on the main listener.
func (b *Builder) Direct(w http.ResponseWriter, r *http.Request) {
	e, err := b.open(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	e.direct().ServeHTTP(w, r)
}
