package api

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	apiimage "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/api"
	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/httpapi"
	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/lifecycle"
	"github.com/wherry-engine/wherry/internal/query"
	"github.com/wherry-engine/wherry/internal/session"
)

// handler is the API over an engine in which there is nothing.
func handler(t *testing.T) http.Handler {
	s, err := httpapi.New(httpapi.Options{Version: "test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.Ready(httpapi.Backends{
		Lifecycle: noLifecycle{}, Changes: noChanges{}, Sessions: noSessions{}, Views: noViews{},
		Images: noImages{}, Puller: noPuller{}, Networks: noNetworks{}, Events: noEvents{},
	})
	return s
}

func noContainer(ref string) error {
	return errdefs.ErrNotFound.WithMessage("No such container: " + ref)
}

func noExec(id string) error { return errdefs.ErrNotFound.WithMessage("No such exec instance: " + id) }

// noImage names what a user would have to write, as the store does.
func noImage(ref string) error {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	return errdefs.ErrNotFound.WithMessage("No such image: " + reference.FamiliarString(reference.TagNameOnly(named)))
}

type noLifecycle struct{ httpapi.Lifecycle }

func (noLifecycle) Create(_ context.Context, r lifecycle.CreateRequest) (container.CreateResponse, error) {
	return container.CreateResponse{}, noImage(r.Config.Image)
}
func (noLifecycle) Start(_ context.Context, ref string) error           { return noContainer(ref) }
func (noLifecycle) Stop(_ context.Context, ref, _ string, _ *int) error { return noContainer(ref) }
func (noLifecycle) Restart(_ context.Context, ref, _ string, _ *int) error {
	return noContainer(ref)
}
func (noLifecycle) Kill(_ context.Context, ref, _ string) error { return noContainer(ref) }
func (noLifecycle) Remove(_ context.Context, ref string, _ lifecycle.RemoveOptions) error {
	return noContainer(ref)
}
func (noLifecycle) Wait(_ context.Context, ref string, _ container.WaitCondition) (<-chan container.WaitResponse, error) {
	return nil, noContainer(ref)
}

type noChanges struct{ httpapi.Changes }

func (noChanges) Pause(_ context.Context, ref string) error     { return noContainer(ref) }
func (noChanges) Unpause(_ context.Context, ref string) error   { return noContainer(ref) }
func (noChanges) Rename(_ context.Context, ref, _ string) error { return noContainer(ref) }
func (noChanges) Update(_ context.Context, ref string, _ *container.UpdateConfig) (container.UpdateResponse, error) {
	return container.UpdateResponse{}, noContainer(ref)
}

type noSessions struct{}

func (noSessions) Attach(_ context.Context, ref string, _ session.AttachOptions, _ session.Hijack) error {
	return noContainer(ref)
}
func (noSessions) Resize(ref string, _, _ uint16) error { return noContainer(ref) }
func (noSessions) ExecCreate(_ context.Context, ref string, _ *api.ExecRequest) (string, error) {
	return "", noContainer(ref)
}
func (noSessions) ExecStart(_ context.Context, id string, _ session.ExecStartOptions, _ session.Hijack) error {
	return noExec(id)
}
func (noSessions) ExecInspect(_ context.Context, id string) (*container.ExecInspectResponse, error) {
	return nil, noExec(id)
}
func (noSessions) ExecResize(_ context.Context, id string, _, _ uint16) error { return noExec(id) }

type noViews struct{ httpapi.Views }

func (noViews) List(_ context.Context, o query.ListOptions) ([]*container.Summary, error) {
	return nil, o.Filters.Validate("id", "name", "status")
}
func (noViews) Inspect(_ context.Context, ref string, _ bool) (*container.InspectResponse, error) {
	return nil, noContainer(ref)
}
func (noViews) Top(_ context.Context, ref, _ string) (*container.TopResponse, error) {
	return nil, noContainer(ref)
}
func (noViews) Logs(_ context.Context, ref string, _ query.LogsOptions, _ func(bool) (io.Writer, io.Writer)) error {
	return noContainer(ref)
}

func (noViews) Stats(_ context.Context, ref string, _, _ bool, _ func(*container.StatsResponse) error) error {
	return noContainer(ref)
}

type noImages struct{ httpapi.Images }

func (noImages) List(_ context.Context, o image.ListOptions) ([]*apiimage.Summary, error) {
	return nil, o.Filters.Validate("dangling", "reference")
}
func (noImages) Inspect(_ context.Context, ref string, _ *ocispec.Platform, _ bool) (*image.Inspection, error) {
	return nil, noImage(ref)
}
func (noImages) History(_ context.Context, ref string, _ *ocispec.Platform) ([]apiimage.HistoryResponseItem, error) {
	return nil, noImage(ref)
}
func (noImages) Tag(_ context.Context, source, _ string) error { return noImage(source) }
func (noImages) Remove(_ context.Context, ref string, _ image.RemoveOptions) ([]apiimage.DeleteResponse, error) {
	return nil, noImage(ref)
}
func (noImages) Save(_ context.Context, names []string, _ []ocispec.Platform, _ io.Writer) error {
	return noImage(names[0])
}
func (noImages) Load(context.Context, io.Reader, bool, []ocispec.Platform, func(jsonstream.Message)) error {
	return errdefs.ErrInvalidArgument.WithMessage("not an image")
}
func (noImages) Import(_ context.Context, r io.Reader, _, _ string, _ []string, _ string) (digest.Digest, error) {
	return digest.FromReader(r)
}

type noPuller struct{}

func (noPuller) Pull(_ context.Context, ref, _, _ string, _ func(jsonstream.Message)) error {
	return errdefs.ErrNotImplemented.WithMessage("cannot pull " + ref)
}

type noNetworks struct{ httpapi.Networks }

func (noNetworks) List(_ context.Context, f filter.Args) ([]network.Inspect, error) {
	return nil, f.Validate("id", "name")
}
func (noNetworks) Inspect(_ context.Context, ref string) (*network.Inspect, error) {
	return nil, errdefs.ErrNotFound.WithMessage("network " + strings.TrimSpace(ref) + " not found")
}

type noEvents struct{}

func (noEvents) Subscribe(context.Context, time.Time, time.Time, filter.Args) ([]events.Message, <-chan events.Message) {
	ch := make(chan events.Message)
	close(ch)
	return nil, ch
}
