package answer

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	controlapi "github.com/moby/buildkit/api/services/control"
)

func image() *controlapi.SolveRequest {
	return &controlapi.SolveRequest{Ref: "r", Exporters: []*controlapi.Exporter{{Type: "moby"}}}
}

// TestEarly: the answer comes with the export, what follows is waited for by
// Settle alone, and does not end with the request.
func TestEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Builds
		ctx, cancel := context.WithCancel(t.Context())
		record, ended := make(chan struct{}), false
		resp, err := b.Solve(ctx, image(), func(ctx context.Context) (*controlapi.SolveResponse, error) {
			Give(ctx, map[string]string{"a": "b"}, map[string][]byte{"frontend.x": []byte("y"), "containerimage.config": []byte("{}")})
			<-record
			ended = ctx.Err() == nil
			return nil, errors.New("the record cannot be written")
		})
		if err != nil || len(resp.ExporterResponse) != 2 || resp.ExporterResponse["a"] != "b" || resp.ExporterResponse["frontend.x"] != "y" {
			t.Fatal(resp, err)
		}
		cancel() // as gRPC does it once a request is answered
		settled := make(chan error, 1)
		go func() { settled <- b.Settle(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-settled:
			t.Fatal("settled before the record was written:", err)
		default:
		}
		impatient, leave := context.WithCancelCause(t.Context())
		leave(errors.New("gone"))
		if err := b.Settle(impatient); err == nil || err.Error() != "wait for the record of a build: gone" {
			t.Error(err)
		}
		close(record)
		if err := <-settled; err != nil || !ended {
			t.Error(err, ended)
		}
		if err := b.Settle(impatient); err != nil {
			t.Error("nothing is open:", err)
		}
	})
}

// TestLate: where something that may fail follows the export, it is waited for.
func TestLate(t *testing.T) {
	for name, change := range map[string]func(*controlapi.SolveRequest){
		"no export":   func(r *controlapi.SolveRequest) { r.Exporters = nil },
		"two exports": func(r *controlapi.SolveRequest) { r.Exporters = append(r.Exporters, r.Exporters[0]) },
		"a cache": func(r *controlapi.SolveRequest) {
			r.Cache = &controlapi.CacheOptions{Exports: []*controlapi.CacheOptionsEntry{{}}}
		},
		"an old cache":     func(r *controlapi.SolveRequest) { r.Cache = &controlapi.CacheOptions{ExportRefDeprecated: "x"} },
		"session exporter": func(r *controlapi.SolveRequest) { r.EnableSessionExporter = true },
		"internal":         func(r *controlapi.SolveRequest) { r.Internal = true },
	} {
		var b Builds
		r := image()
		change(r)
		want := errors.New("later")
		_, err := b.Solve(t.Context(), r, func(ctx context.Context) (*controlapi.SolveResponse, error) {
			Give(ctx, map[string]string{}, nil)
			return nil, want
		})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLeft: a client that leaves before the answer takes the build along.
func TestLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Builds
		gone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			synctest.Wait()
			cancel(gone)
		}()
		_, err := b.Solve(ctx, image(), func(ctx context.Context) (*controlapi.SolveResponse, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		})
		if !errors.Is(err, gone) {
			t.Error(err)
		}
	})
}
