package daemon

import (
	"context"

	apinetwork "github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/network"
)

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
