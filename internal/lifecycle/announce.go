package lifecycle

import (
	"maps"
	"slices"

	"github.com/moby/moby/api/types/events"

	"github.com/wherry-engine/wherry/internal/container"
)

// builtin are the drivers of the networks that are always there.
var builtin = map[string]string{"bridge": "bridge", "host": "host", "none": "null"}

// announce publishes that a run has joined its networks, or has left them. No
// container may be locked: a network is asked for its driver, and looks at its
// members.
func (p *parts) announce(r *container.Record, action events.Action) {
	for _, name := range slices.Sorted(maps.Keys(r.Networks)) {
		driver, known := builtin[name]
		if !known {
			if n, err := p.networks.Inspect(name, false); err == nil {
				driver = n.Driver
			}
		}
		network := ""
		if s := r.Networks[name]; s != nil {
			network = s.NetworkID
		}
		p.events.Publish(events.Message{Type: events.NetworkEventType, Action: action, Actor: events.Actor{
			ID: network, Attributes: map[string]string{"container": r.ID, "name": name, "type": driver}}})
	}
}
