package classic

import (
	"context"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/client/llb"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/identity"
)

// Key is the attribute that names a classic build to the frontend.
const Key = "wherry-classic"

// Outputs are the outputs of the classic builds that run.
type Outputs struct {
	mu sync.Mutex
	m  map[string]*Output
}

// Add gives an output the name that the build's attribute Key carries.
func (c *Outputs) Add(o *Output) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = map[string]*Output{}
	}
	id := identity.NewID()
	c.m[id] = o
	return id
}

func (c *Outputs) get(id string) *Output {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[id]
}

// Drop ends a name.
func (c *Outputs) Drop(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.m, id)
}

// Frontend reads the Dockerfile for the output, and builds it.
func (c *Outputs) Frontend(ctx context.Context, gw client.Client) (*client.Result, error) {
	opts := gw.BuildOpts().Opts
	out := c.get(opts[Key])
	if out == nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage("the classic frontend serves the engine's own builds only")
	}
	if opts["context"] == "" { // the request brought it
		sent := llb.Local(dockerui.DefaultLocalNameContext, llb.SessionID(gw.BuildOpts().SessionID), dockerui.WithInternalName("load build context"))
		gw = withInputs{gw, map[string]llb.State{dockerui.DefaultLocalNameContext: sent, dockerui.DefaultLocalNameDockerfile: sent}}
	}
	ui, err := dockerui.NewClient(gw)
	if err != nil {
		return nil, err
	}
	src, err := ui.ReadEntrypoint(ctx, "Dockerfile")
	if err != nil {
		return nil, err
	}
	if err := out.Plan(src.Data, opts["target"]); err != nil {
		return nil, err
	}
	ready, err := withoutExcluded(ctx, gw, ui)
	if err != nil {
		return nil, err
	}
	return dockerfile.Build(ctx, ready)
}
