package build

import (
	"context"
	"maps"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/pb"
)

// builtinMinor is the newest minor version of docker/dockerfile:1 that the
// frontend in this program is as good as.
const builtinMinor = 27

// syntax is the frontend behind "# syntax=": an image that is run to read the
// Dockerfile. Docker's own in its stable form is in this program, so it is not
// fetched and run: builds that name it work without a registry, and faster.
type syntax struct {
	frontend.Frontend
	builtin frontend.Frontend
}

// Solve runs the image that is named, or what is here in its place.
func (s *syntax) Solve(ctx context.Context, b frontend.FrontendLLBBridge, exec executor.Executor, opts map[string]string, inputs map[string]*pb.Definition, sid string, sm *session.Manager) (*frontend.Result, error) {
	if !isBuiltin(opts[frontend.KeySource]) {
		return s.Frontend.Solve(ctx, b, exec, opts, inputs, sid, sm)
	}
	own := maps.Clone(opts)
	if own["cmdline"] == "" {
		own["cmdline"] = own[frontend.KeySource] // says that the line was seen
	}
	delete(own, frontend.KeySource)
	return s.builtin.Solve(ctx, b, exec, own, inputs, sid, sm)
}

// isBuiltin tells whether a reference is that of docker's frontend, version 1,
// as new as this one or older. A digest asks for those very bytes.
func isBuiltin(ref string) bool {
	ref, _, _ = strings.Cut(ref, " ")
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil || named.Name() != "docker.io/docker/dockerfile" {
		return false
	}
	if _, ok := named.(reference.Digested); ok {
		return false
	}
	tagged, ok := named.(reference.Tagged)
	if !ok || tagged.Tag() == "latest" || tagged.Tag() == "1" {
		return true
	}
	major, rest, _ := strings.Cut(tagged.Tag(), ".")
	minor, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(minor)
	return major == "1" && err == nil && n <= builtinMinor && strings.Trim(rest, "0123456789.") == ""
}
