// Package answer owns when a build is answered: one whose only output is an
// image of the engine's as soon as that is there and durable. What BuildKit does
// after it (the record in the history of builds with its provenance, and letting
// go of what the build held) goes on behind the answer. Who looks at what builds
// leave or hold, or takes it away, waits for that with Settle first.
//
// A kill of the engine behind the answer loses the record, nothing else.
package answer

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc"
)

// Builds are those that were answered and are not over. It is safe for use by
// several goroutines.
type Builds struct {
	mu   sync.Mutex
	open map[chan struct{}]struct{} // each closed when its build is over
}

type key struct{}

// Give answers the build of ctx if it can be answered before it is over. metadata
// is that of the result, of which clients get what frontends say.
func Give(ctx context.Context, exported map[string]string, metadata map[string][]byte) {
	ch, ok := ctx.Value(key{}).(chan map[string]string)
	if !ok {
		return
	}
	resp := maps.Clone(exported)
	for k, v := range metadata {
		if strings.HasPrefix(k, "frontend.") {
			resp[k] = string(v)
		}
	}
	select {
	case ch <- resp:
	default: // there is only one export
	}
}

// early tells whether nothing that can fail comes after the export.
func early(r *controlapi.SolveRequest) bool {
	return len(r.Exporters) == 1 && len(r.GetCache().GetExports()) == 0 && r.GetCache().GetExportRefDeprecated() == "" &&
		!r.EnableSessionExporter && !r.Internal
}

// Solve has solve build, and returns its answer or the one that Give has for it.
// solve's context ends with ctx until then, and no more after that.
func (b *Builds) Solve(ctx context.Context, r *controlapi.SolveRequest, solve func(context.Context) (*controlapi.SolveResponse, error)) (*controlapi.SolveResponse, error) {
	if !early(r) {
		return solve(ctx)
	}
	exported := make(chan map[string]string, 1)
	inner, cancel := context.WithCancelCause(context.WithValue(context.WithoutCancel(ctx), key{}, exported))
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	type result struct {
		resp *controlapi.SolveResponse
		err  error
	}
	solved := make(chan result, 1)
	go func() {
		defer cancel(nil)
		resp, err := solve(inner)
		solved <- result{resp, err}
	}()
	select {
	case s := <-solved:
		stop()
		return s.resp, s.err
	case resp := <-exported:
		if !stop() { // the client left, and with it the build
			s := <-solved
			return s.resp, s.err
		}
		over := b.begin()
		go func() {
			defer over()
			if s := <-solved; s.err != nil {
				slog.Warn("a build is not in the history of builds", "ref", r.Ref, "error", s.err)
			}
		}()
		return &controlapi.SolveResponse{ExporterResponse: resp}, nil
	}
}

func (b *Builds) begin() (over func()) {
	ch := make(chan struct{})
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == nil {
		b.open = map[chan struct{}]struct{}{}
	}
	b.open[ch] = struct{}{}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.open, ch)
		close(ch)
	}
}

// Settle waits until the builds that are answered now are over.
func (b *Builds) Settle(ctx context.Context) error {
	b.mu.Lock()
	open := slices.Collect(maps.Keys(b.open))
	b.mu.Unlock()
	for _, ch := range open {
		select {
		case <-ch:
		case <-ctx.Done():
			return fmt.Errorf("wait for the record of a build: %w", context.Cause(ctx))
		}
	}
	return nil
}

// Intercept has who looks at the history of builds, or frees what they keep,
// wait for those that were answered.
func (b *Builds) Intercept(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	switch info.FullMethod {
	case controlapi.Control_ListenBuildHistory_FullMethodName, controlapi.Control_Prune_FullMethodName:
		if err := b.Settle(stream.Context()); err != nil {
			return err
		}
	}
	return next(srv, stream)
}
