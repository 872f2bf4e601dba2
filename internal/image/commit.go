package image

import (
	"context"
	"io"
	"slices"

	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
)

// Commit describes an image that is made of another one.
type Commit struct {
	Parent  digest.Digest // id of the image it stands on
	Layer   io.Reader     // tar stream of what is different; nil for nothing
	Config  dockerspec.DockerOCIImageConfig
	History ocispec.History // of this step; EmptyLayer is set by Commit
	Author  string
	Ref     string // name to give it, "" for none
	Origin  Origin
}

// Origin says which container an image was committed from, in members of the
// image's configuration that docker's own format has and OCI's has not.
type Origin struct {
	Container string               `json:"container,omitempty"`
	Config    *apicontainer.Config `json:"container_config,omitempty"`
}

// Commit makes an image of its parent's layers and one more. It is durable
// when its id is returned.
func (s *Store) Commit(ctx context.Context, c Commit) (digest.Digest, error) {
	var named reference.Named
	if c.Ref != "" {
		var err error
		if named, err = parseTag(c.Ref); err != nil {
			return "", err
		}
	}
	ctx, release, err := s.content.Lease(content.With(ctx))
	if err != nil {
		return "", err
	}
	img, err := s.commitLeased(ctx, &c, named)
	release()
	if err != nil {
		collectAfter(ctx, s, err)
		return "", err
	}
	if named != nil {
		s.publish(events.ActionTag, img, img.ID.String(), reference.FamiliarString(named))
	}
	return img.ID, nil
}

func (s *Store) commitLeased(ctx context.Context, c *Commit, named reference.Named) (*Image, error) {
	parent, err := s.Resolve(ctx, c.Parent.String())
	if err != nil {
		return nil, err
	}
	if err := hold(ctx, s, parent); err != nil { // it may be removed meanwhile
		return nil, err
	}
	from, err := s.tree.Pick(ctx, parent.Manifest)
	if err != nil {
		return nil, err
	}
	config := dockerspec.DockerOCIImage{}
	config.Created, config.Author, config.Platform = c.History.Created, c.Author, from.Config.Platform
	config.Config = c.Config
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: slices.Clone(from.Config.RootFS.DiffIDs)}
	layers := slices.Clone(from.Manifest.Layers)
	step := c.History
	step.EmptyLayer = c.Layer == nil
	config.History = append(slices.Clone(from.Config.History), step)
	if c.Layer != nil {
		layer, diff, err := s.tree.WriteLayer(ctx, c.Layer)
		if err != nil {
			return nil, err
		}
		layers, config.RootFS.DiffIDs = append(layers, layer), append(config.RootFS.DiffIDs, diff)
	}
	l, err := describe(ctx, s, struct {
		*dockerspec.DockerOCIImage
		Origin
	}{&config, c.Origin}, layers)
	if err != nil {
		return nil, err
	}
	s.change.Lock()
	defer s.change.Unlock()
	r := l.record(named)
	r.parent = parent.ID
	if _, err := s.commit(ctx, nil, []*record{r}); err != nil {
		return nil, err
	}
	return s.Resolve(ctx, l.done.ID().String())
}
