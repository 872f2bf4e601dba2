package build

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/identity"
	solvererrors "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/moby/moby/api/types/jsonstream"

	"github.com/wherry-engine/wherry/internal/build/classic"
	"github.com/wherry-engine/wherry/internal/build/flatten"
	"github.com/wherry-engine/wherry/internal/build/request"
)

// frontendClassic is the name of classic.Outputs' frontend.
const frontendClassic = "wherry.classic"

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
	attrs, err := frontendAttrs(r)
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
		delete(attrs, "context")
		withdraw, err := e.contexts.Offer(own.ID(), strings.Join(tags, " "), body)
		if err != nil {
			return err
		}
		defer withdraw()
	}
	if len(r.CacheFrom) > 0 && !slices.ContainsFunc(r.CacheFrom, func(ref string) bool { id, _ := b.base(ref); return id != "" }) {
		attrs["no-cache"] = "" // who names images wants those steps and no others
	}
	_, fresh := attrs["no-cache"]
	out := classic.New(message, r.Remove, fresh, b.base)
	attrs[classic.Key] = e.classics.Add(out)
	defer e.classics.Drop(attrs[classic.Key])
	req := &controlapi.SolveRequest{
		Ref: identity.NewID(), Session: own.ID(), Frontend: frontendClassic, FrontendAttrs: attrs, Internal: true, Cache: cacheOptions(r),
		Exporters: []*controlapi.Exporter{{Type: exporterMoby, Attrs: map[string]string{
			string(exptypes.OptKeyName): strings.Join(tags, ","), flatten.Option: strconv.FormatBool(r.Squash),
		}}},
	}
	if r.NetworkMode == "host" {
		req.Entitlements = append(req.Entitlements, string(entitlements.EntitlementNetworkHost))
	}
	resp, err := e.solve(ctx, req, out.Status)
	if err != nil {
		out.Fail()
		if told, ok := classic.Error(err); ok {
			return told
		}
		return clientError(err)
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

// clientError gives a build that a frontend refused the kind that its client
// expects: what was asked for cannot be built, which is no fault of the engine's.
func clientError(err error) error {
	if refused := (*solvererrors.FrontendError)(nil); errors.As(err, &refused) {
		return errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	return err
}
