package classic

import (
	"bytes"
	"context"
	"maps"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// withInputs is a frontend's client whose context and Dockerfile are known.
type withInputs struct {
	client.Client
	inputs map[string]llb.State
}

// Inputs are what the frontend builds from.
func (w withInputs) Inputs(context.Context) (map[string]llb.State, error) { return w.inputs, nil }

// BuildOpts leaves out where the context came from.
func (w withInputs) BuildOpts() client.BuildOpts {
	o := w.Client.BuildOpts()
	o.Opts = maps.Clone(o.Opts)
	delete(o.Opts, "context")
	delete(o.Opts, "contextsubdir")
	return o
}

// withoutExcluded takes the Dockerfile and .dockerignore out of the context
// that steps see, if .dockerignore names them. A client of the classic API
// leaves out all other files itself, but sends these two, as the build needs
// them.
func withoutExcluded(ctx context.Context, gw client.Client, ui *dockerui.Client) (client.Client, error) {
	sent, err := ui.MainContext(ctx)
	if err != nil {
		return nil, err
	}
	def, err := sent.Marshal(ctx, llb.WithCaps(gw.BuildOpts().Caps))
	if err != nil {
		return nil, err
	}
	res, err := gw.Solve(ctx, client.SolveRequest{Definition: def.ToPB()})
	if err != nil {
		return nil, err
	}
	ref, err := res.SingleRef()
	if err != nil || ref == nil { // an empty context
		return gw, err
	}
	// What cannot be read is not there, or is no file.
	ignore, err := dockerui.ReadFile(ctx, ref, dockerui.DefaultDockerignoreName)
	if err != nil {
		return gw, nil
	}
	patterns, err := ignorefile.ReadAll(bytes.NewReader(ignore))
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage("error reading .dockerignore: " + err.Error())
	}
	left := *sent
	for _, name := range []string{dockerui.DefaultDockerignoreName, dockerfileIn(ctx, ref, gw.BuildOpts().Opts["filename"])} {
		excluded, err := patternmatcher.MatchesOrParentMatches(name, patterns)
		if err != nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage("error reading .dockerignore: " + err.Error())
		}
		if excluded {
			left = left.File(llb.Rm(name, llb.WithAllowNotFound(true)), dockerui.WithInternalName("exclude "+name))
		}
	}
	if left.Output() == sent.Output() {
		return gw, nil
	}
	return withInputs{gw, map[string]llb.State{
		dockerui.DefaultLocalNameContext: left, dockerui.DefaultLocalNameDockerfile: *sent,
	}}, nil
}

// dockerfileIn is the path of the Dockerfile in the context.
func dockerfileIn(ctx context.Context, ref client.Reference, name string) string {
	if name == "" {
		name = dockerui.DefaultDockerfileName
	}
	name = strings.TrimPrefix(path.Join("/", name), "/")
	if path.Base(name) != dockerui.DefaultDockerfileName {
		return name
	}
	if _, err := ref.StatFile(ctx, client.StatRequest{Path: name}); err != nil {
		return path.Join(path.Dir(name), strings.ToLower(dockerui.DefaultDockerfileName))
	}
	return name
}
