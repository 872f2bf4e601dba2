package answer

import (
	"context"
	"errors"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	solvererrors "github.com/moby/buildkit/solver/errdefs"
	"google.golang.org/grpc"
)

type oneRequest struct {
	grpc.ServerStream
	ctx  context.Context
	read int
}

func (s *oneRequest) Context() context.Context { return s.ctx }

func (s *oneRequest) RecvMsg(m any) error {
	s.read++
	m.(*controlapi.StatusRequest).Ref = "ref"
	return nil
}

// Who asks for the status of a build that is made room for waits for it, and the build
// that nobody knows is not waited for.
func TestArrivals(t *testing.T) {
	var a Arrivals
	asked := make(chan struct{}, 10)
	job := false // whether the solver has the build
	status := func(_ any, stream grpc.ServerStream) error {
		var r controlapi.StatusRequest
		if err := stream.RecvMsg(&r); err != nil || r.Ref != "ref" {
			t.Errorf("asked for %q %v", r.Ref, err)
		}
		asked <- struct{}{}
		if !job {
			return solvererrors.NewUnknownJobError(r.Ref)
		}
		return nil
	}
	info := &grpc.StreamServerInfo{FullMethod: controlapi.Control_Status_FullMethodName}
	unknown := (*solvererrors.UnknownJobError)(nil)
	if err := a.Intercept(nil, &oneRequest{ctx: t.Context()}, info, status); !errors.As(err, &unknown) {
		t.Errorf("a build that nobody knows: %v", err)
	}
	<-asked

	begin := a.Come("ref")
	stream := &oneRequest{ctx: t.Context()}
	answered := make(chan error, 1)
	go func() { answered <- a.Intercept(nil, stream, info, status) }()
	<-asked
	gone, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("gone")
	cancel(cause)
	if err := a.Intercept(nil, &oneRequest{ctx: gone}, info, status); !errors.Is(err, cause) {
		t.Errorf("a client that leaves: %v", err)
	}
	<-asked
	select {
	case err := <-answered:
		t.Fatalf("answered before the build began: %v", err)
	default:
	}
	job = true
	begin()
	begin() // as who leaves does
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if stream.read != 1 {
		t.Errorf("the request was read %d times", stream.read)
	}
	if len(a.m) != 0 {
		t.Errorf("%d builds are still to come", len(a.m))
	}
}
