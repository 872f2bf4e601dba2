package image

import (
	"context"
	"log/slog"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/wherry-engine/wherry/internal/content"
)

// holdPrefix begins the names of leases that keep the layers of a container
// whose image was removed by force.
const holdPrefix = "container-"

// recover finishes what an earlier process began.
func (s *Store) recover(ctx context.Context) error {
	if err := s.content.Recover(ctx, s.Collect); err != nil {
		return err
	}
	held, err := s.content.Leases().List(content.With(ctx))
	if err != nil {
		return err
	}
	for _, l := range held {
		if strings.HasPrefix(l.ID, holdPrefix) {
			return s.Collect(ctx)
		}
	}
	return nil
}

// Collect removes all blobs and layers that no image, lease or container needs.
func (s *Store) Collect(ctx context.Context) error {
	ctx = content.With(ctx)
	return s.snapshots.Collect(func(inUse map[digest.Digest]bool) error {
		// An image that is here now may be removed before the roots are looked at.
		ctx, done, err := s.content.Lease(ctx)
		if err != nil {
			return err
		}
		defer done()
		for chain := range inUse {
			if err := s.content.Hold(ctx, leases.Resource{ID: chain.String(), Type: "snapshots/" + s.snapshots.Driver()}); err != nil {
				return err
			}
		}
		m := s.content.Leases()
		held, err := m.List(ctx)
		if err != nil {
			return err
		}
		for _, l := range held {
			chain, ok := strings.CutPrefix(l.ID, holdPrefix)
			if !ok {
				continue
			}
			if inUse[digest.Digest(chain)] {
				delete(inUse, digest.Digest(chain))
			} else if err := m.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
		}
		reached := map[digest.Digest]bool{}
		if len(inUse) > 0 {
			for _, e := range s.entries() {
				if img, err := s.image(ctx, e); err == nil {
					reached[img.ChainID] = true
				}
			}
		}
		for chain := range inUse {
			if reached[chain] {
				continue
			}
			l, err := m.Create(ctx, leases.WithID(holdPrefix+chain.String()))
			if err != nil {
				return err
			}
			if err := m.AddResource(ctx, l, leases.Resource{ID: chain.String(), Type: "snapshots/" + s.snapshots.Driver()}); err != nil {
				return err
			}
		}
		return s.content.Collect(ctx)
	})
}

// logFailure reports a collection that failed after another error, which is
// the one that the caller hears of.
func logFailure(ctx context.Context, err, cause error) {
	slog.WarnContext(ctx, "images: cannot clean up; the next collection will", "after", cause, "error", err)
}
