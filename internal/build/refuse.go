package build

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client/buildid"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/pb"
)

// frontendRefused is the name of the frontend that fails.
const frontendRefused = "wherry.refused"

// forget is how long a client may go on asking for a build that was refused.
const forget = 10 * time.Second

// refusals are the requests that end with an error before they are builds, by
// the build's reference. A client that watches one, or that sends the build's
// parts itself, waits for seconds for it to begin before it believes that it
// failed; so it begins, with a frontend that fails.
type refusals struct {
	errs  sync.Map // error by reference
	pings sync.Map // func(error) by reference: ends the call that waits for the build
}

// refuse makes r fail with err.
func (f *refusals) refuse(r *controlapi.SolveRequest, err error) {
	f.errs.Store(r.Ref, err)
	time.AfterFunc(forget, func() { f.errs.Delete(r.Ref) })
	if end, ok := f.pings.Load(r.Ref); ok {
		end.(context.CancelCauseFunc)(err)
	}
	r.Frontend, r.FrontendAttrs, r.FrontendInputs, r.Definition = frontendRefused, map[string]string{frontendRefused: r.Ref}, nil, nil
	r.Cache, r.Exporters, r.Internal = &controlapi.CacheOptions{}, nil, true
}

// ping waits for a build to begin, or to be refused.
func (f *refusals) ping(ctx context.Context, wait func(context.Context) (any, error)) (any, error) {
	ref := buildid.FromIncomingContext(ctx)
	inner, end := context.WithCancelCause(ctx)
	defer end(nil)
	f.pings.Store(ref, end)
	defer f.pings.Delete(ref)
	if err, ok := f.errs.Load(ref); ok {
		return nil, err.(error)
	}
	out, err := wait(inner)
	if refused := context.Cause(inner); err != nil && refused != nil {
		err = refused
	}
	return out, err
}

// Solve fails.
func (f *refusals) Solve(_ context.Context, _ frontend.FrontendLLBBridge, _ executor.Executor, opts map[string]string, _ map[string]*pb.Definition, _ string, _ *session.Manager) (*frontend.Result, error) {
	if err, ok := f.errs.Load(opts[frontendRefused]); ok {
		return nil, err.(error)
	}
	return nil, errdefs.ErrInvalidArgument.WithMessage("no such frontend: " + frontendRefused)
}
