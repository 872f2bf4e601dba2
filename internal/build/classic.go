package build

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/frontend/gateway/client"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/identity"
	solvererrors "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/moby/moby/api/types/jsonstream"

	"github.com/wherry-engine/wherry/internal/build/classic"
	"github.com/wherry-engine/wherry/internal/build/request"
)

// frontendClassic is the Dockerfile frontend that tells a classic build which
// steps there will be; keyClassic names the build.
const (
	frontendClassic = "wherry.classic"
	keyClassic      = "wherry-classic"
)

// Classic is a build of version 1; see api.Builder. It is made by the same
// solver as one of version 2, with the client's files and credentials in a
// session of the engine's own.
func (b *Builder) Classic(ctx context.Context, r *request.Build, body io.Reader, message func(jsonstream.Message)) error {
	tags, err := tagsOf(r.Tags)
	if err != nil {
		return err
	}
	e, err := b.open(ctx)
	if err != nil {
		return err
	}
	attrs, err := frontendAttrs(r, e.gateway)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	own, err := e.openSession(ctx, r)
	if err != nil {
		return err
	}
	defer own.close()
	if attrs["context"] = r.Remote; r.Remote == "" {
		attrs["context"] = own.uploads.Add(io.NopCloser(recognizable(body)))
	}
	if len(r.CacheFrom) > 0 && !slices.ContainsFunc(r.CacheFrom, func(ref string) bool { id, _ := b.base(ref); return id != "" }) {
		attrs["no-cache"] = "" // who names images wants those steps and no others
	}
	_, fresh := attrs["no-cache"]
	out := classic.New(message, r.Remove, fresh, b.base)
	attrs[keyClassic] = e.classics.add(out)
	defer e.classics.drop(attrs[keyClassic])
	req := &controlapi.SolveRequest{
		Ref: identity.NewID(), Session: own.ID(), Frontend: frontendClassic, FrontendAttrs: attrs, Internal: true, Cache: cacheOptions(r),
		Exporters: []*controlapi.Exporter{{Type: exporterMoby, Attrs: map[string]string{
			string(exptypes.OptKeyName): strings.Join(tags, ","), optSquash: strconv.FormatBool(r.Squash),
		}}},
	}
	if r.NetworkMode == "host" {
		req.Entitlements = append(req.Entitlements, string(entitlements.EntitlementNetworkHost))
	}
	resp, err := e.solve(ctx, req, out.Status)
	if err != nil {
		out.Fail()
		return classicError(err)
	}
	id := resp[exptypes.ExporterImageConfigDigestKey]
	out.Done(id)
	for _, t := range tags {
		named, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			return err
		}
		message(jsonstream.Message{Stream: "Successfully tagged " + reference.FamiliarString(reference.TagNameOnly(named)) + "\n"})
	}
	return nil
}

// recognizable puts a plain entry for the context's directory in front of a
// tar: BuildKit looks at the first kilobyte only to tell a tar from a
// Dockerfile, and the extended headers that some clients begin with are longer.
func recognizable(body io.Reader) io.Reader {
	r := bufio.NewReader(body)
	head, err := r.Peek(512)
	if err != nil || !bytes.Equal(head[257:262], []byte("ustar")) {
		return r
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755, Format: tar.FormatUSTAR}); err != nil {
		return r // it always fits
	}
	return io.MultiReader(&b, r)
}

// tagsOf checks the names and leaves out repetitions.
func tagsOf(list []string) ([]string, error) {
	seen := map[string]bool{}
	var out []string
	for _, t := range list {
		if t == "" {
			continue
		}
		named, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
		if _, ok := named.(reference.Canonical); ok {
			return nil, errdefs.ErrInvalidArgument.WithMessage("build tag cannot contain a digest")
		}
		if name := reference.TagNameOnly(named).String(); !seen[name] {
			seen[name] = true
			out = append(out, name)
		}
	}
	return out, nil
}

// base gives id and triggers of an image that is here, nothing for another.
func (b *Builder) base(ref string) (id string, triggers []string) {
	img, err := b.cfg.Images.Resolve(context.Background(), ref)
	if err != nil {
		return "", nil
	}
	return img.ID.String(), img.Config.Config.OnBuild
}

// classicFrontend reads the Dockerfile for the output, and builds it.
func (e *engine) classicFrontend(ctx context.Context, c client.Client) (*client.Result, error) {
	opts := c.BuildOpts().Opts
	out := e.classics.get(opts[keyClassic])
	if out == nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage("the classic frontend serves the engine's own builds only")
	}
	ui, err := dockerui.NewClient(c)
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
	return dockerfile.Build(ctx, c)
}

var (
	failedStep   = regexp.MustCompile(`process ("(?:[^"\\]|\\.)*") did not complete successfully`)
	missingFile  = regexp.MustCompile(`failed to calculate checksum of ref \S+: "([^"]*)": not found`)
	missingBuild = regexp.MustCompile(`failed to read dockerfile: open ([^:]+): no such file or directory`)
)

// classicError tells a failure in the classic builder's words.
func classicError(err error) error {
	var exit *gatewayapi.ExitError
	if errors.As(err, &exit) && exit.ExitCode < gatewayapi.UnknownExitStatus {
		command := ""
		if m := failedStep.FindStringSubmatch(err.Error()); m != nil {
			command, _ = strconv.Unquote(m[1])
		}
		return &request.StepError{Command: command, Code: int(exit.ExitCode)}
	}
	text := err.Error()
	if m := missingFile.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("COPY failed: file not found in build context or excluded by .dockerignore: stat %s: file does not exist", strings.TrimPrefix(m[1], "/"))
	}
	if m := missingBuild.FindStringSubmatch(text); m != nil {
		return errdefs.ErrInvalidArgument.WithMessage("Cannot locate specified Dockerfile: " + m[1])
	}
	if strings.HasSuffix(text, "file with no instructions") {
		return errdefs.ErrInvalidArgument.WithMessage("the Dockerfile cannot be empty")
	}
	return clientError(err)
}

// clientError gives a build that a frontend refused the kind that its client
// expects: what was asked for cannot be built, which is no fault of the engine's.
func clientError(err error) error {
	if refused := (*solvererrors.FrontendError)(nil); errors.As(err, &refused) {
		return errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	return err
}
