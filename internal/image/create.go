package image

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/image/change"
)

// Import makes an image of one layer from the tar of a root file system, plain
// or compressed. ref may be "" for no name; changes are Dockerfile
// instructions (-c); an empty platform is the host's. It returns the image's id.
func (s *Store) Import(ctx context.Context, r io.Reader, ref, message string, changes []string, platform string) (digest.Digest, error) {
	var named reference.Named
	if ref != "" {
		var err error
		if named, err = parseTag(ref); err != nil {
			return "", err
		}
	}
	p := platforms.DefaultSpec()
	if platform != "" {
		var err error
		if p, err = platforms.Parse(platform); err != nil {
			return "", invalid("%s", err)
		}
		if p.OS != "linux" {
			return "", invalid("operating system is not supported: %s", p.OS)
		}
	}
	now := time.Now().UTC()
	config := dockerspec.DockerOCIImage{}
	config.Created = &now
	config.Platform = ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
	config.History = []ocispec.History{{Created: &now, Comment: message}}
	if err := change.Apply(&config.Config, changes); err != nil {
		return "", err
	}
	img, err := s.single(ctx, r, &config, named)
	if err != nil {
		return "", err
	}
	if named != nil {
		s.publish(events.ActionTag, img, img.ID.String(), reference.FamiliarString(named))
	}
	s.publish(events.ActionImport, img, img.ID.String(), img.ID.String())
	return img.ID, nil
}

// Builtin makes the image that the engine carries under that name, if it does,
// and tells whether it does. A name that is taken stays as it is.
func (s *Store) Builtin(ctx context.Context, ref string) (bool, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return false, invalid("%s", err)
	}
	named = reference.TagNameOnly(named)
	tagged, ok := named.(reference.Tagged)
	if !ok || tagged.Tag() != "latest" {
		return false, nil
	}
	name := reference.FamiliarName(named)
	program := s.builtin[name]
	if program == nil {
		return false, nil
	}
	if s.byName(named) != nil {
		return true, nil // it may be another one, of the person's own
	}
	file := path.Base(name)
	if name == "hello-world" {
		file = "hello"
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	body := program()
	err = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: file, Size: int64(len(body)), Mode: 0o755, ModTime: builtinTime})
	if err == nil {
		_, err = tw.Write(body)
	}
	if err == nil {
		err = tw.Close()
	}
	if err != nil {
		return true, err
	}
	at := builtinTime
	config := dockerspec.DockerOCIImage{}
	config.Created = &at
	host := platforms.DefaultSpec()
	config.Platform = ocispec.Platform{OS: host.OS, Architecture: host.Architecture}
	config.Config.Cmd = []string{"/" + file}
	config.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	config.History = []ocispec.History{{Created: &at, CreatedBy: "COPY " + file + " /", Comment: "built into the engine"},
		{Created: &at, CreatedBy: fmt.Sprintf("CMD [\"/%s\"]", file), EmptyLayer: true}}
	_, err = s.single(ctx, &b, &config, named)
	return true, err
}

// builtinTime is the creation time of the images that the engine carries: a
// constant, so that the same program always is the same image.
var builtinTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// single stores an image of one layer. r may be compressed; gzip and zstd are
// kept as they are, the other forms unpacked, for a layer cannot have them.
func (s *Store) single(ctx context.Context, r io.Reader, config *dockerspec.DockerOCIImage, named reference.Named) (*Image, error) {
	ctx, release, err := s.content.Lease(content.With(ctx))
	if err != nil {
		return nil, err
	}
	img, err := s.singleLeased(ctx, r, config, named)
	release()
	if err != nil {
		collectAfter(ctx, s, err)
	}
	return img, err
}

func (s *Store) singleLeased(ctx context.Context, r io.Reader, config *dockerspec.DockerOCIImage, named reference.Named) (*Image, error) {
	layer, diff, err := s.tree.WriteLayer(ctx, r)
	if err != nil {
		return nil, err
	}
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diff}}
	l, err := describe(ctx, s, config, []ocispec.Descriptor{layer})
	if err != nil {
		return nil, err
	}
	s.change.Lock()
	defer s.change.Unlock()
	s.mu.RLock()
	known := s.index.ids[l.done.ID()] != nil
	s.mu.RUnlock()
	if named != nil || !known {
		if _, err := s.commit(ctx, nil, []*record{l.record(named)}); err != nil {
			return nil, err
		}
	}
	return s.Resolve(ctx, l.done.ID().String())
}
