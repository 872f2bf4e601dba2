package daemon

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/jsonstream"
	apinetwork "github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/network"
)

// puller serves `pull` while there is no registry client: images that the
// engine carries are made on demand, any other is refused by name.
type puller struct{ images *image.Store }

func (p puller) Pull(ctx context.Context, ref, _, _ string, progress func(jsonstream.Message)) error {
	made, err := p.images.Builtin(ctx, ref)
	if err != nil {
		return err
	}
	if !made {
		return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("cannot pull %s: registries are not served by this version of wherryd; bring the image in with `wherry load` or `wherry import`", ref))
	}
	progress(jsonstream.Message{Status: "Status: Made built-in image " + ref})
	return nil
}

// networks answers with the whole of each network, as the API's list does.
type networks struct{ *network.Manager }

func (n networks) List(_ context.Context, f filter.Args) ([]apinetwork.Inspect, error) {
	list, err := n.Manager.List(f)
	if err != nil {
		return nil, err
	}
	out := make([]apinetwork.Inspect, 0, len(list))
	for _, s := range list {
		one, err := n.Manager.Inspect(s.ID, false)
		if err != nil {
			return nil, err
		}
		out = append(out, *one)
	}
	return out, nil
}

func (n networks) Inspect(_ context.Context, ref string) (*apinetwork.Inspect, error) {
	return n.Manager.Inspect(ref, false)
}
