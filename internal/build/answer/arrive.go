package answer

import (
	"context"
	"errors"
	"sync"

	controlapi "github.com/moby/buildkit/api/services/control"
	solvererrors "github.com/moby/buildkit/solver/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Arrivals are builds that came and are no jobs of BuildKit's solver yet: first
// room is made for them, if there is little. BuildKit's patience with who asks
// for a job that is not there, six seconds, is renewed when it has begun. The
// zero value is none.
type Arrivals struct {
	mu sync.Mutex
	m  map[string]chan struct{} // by ref, closed when the build begins
}

// Come notes a build. It begins with the first call of begin, or is over.
func (a *Arrivals) Come(ref string) (begin func()) {
	ch := make(chan struct{})
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.m == nil {
		a.m = map[string]chan struct{}{}
	}
	a.m[ref] = ch
	return sync.OnceFunc(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.m[ref] == ch {
			delete(a.m, ref)
		}
		close(ch)
	})
}

// Follow gives the status of a build with status, which is called again if
// BuildKit lost patience with one that had not begun.
func (a *Arrivals) Follow(ctx context.Context, ref func() string, status func() error) error {
	for {
		err := status()
		if unknown := (*solvererrors.UnknownJobError)(nil); !errors.As(err, &unknown) {
			return err
		}
		a.mu.Lock()
		ch := a.m[ref()]
		a.mu.Unlock()
		if ch == nil {
			return err
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Intercept follows the status that a client asks for.
func (a *Arrivals) Intercept(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if info.FullMethod != controlapi.Control_Status_FullMethodName {
		return next(srv, stream)
	}
	asked := &request{ServerStream: stream}
	return a.Follow(stream.Context(), func() string { return asked.read.GetRef() }, func() error {
		asked.given = false
		return next(srv, asked)
	})
}

// request is a stream whose one request can be read again.
type request struct {
	grpc.ServerStream
	read  *controlapi.StatusRequest
	given bool
}

// RecvMsg gives the request.
func (r *request) RecvMsg(m any) error {
	to, ok := m.(*controlapi.StatusRequest)
	if !ok || r.given {
		return r.ServerStream.RecvMsg(m)
	}
	r.given = true
	if r.read == nil {
		if err := r.ServerStream.RecvMsg(to); err != nil {
			return err
		}
		r.read = proto.CloneOf(to)
		return nil
	}
	proto.Merge(to, r.read)
	return nil
}
