package older

import (
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	engine "github.com/wherry-engine/wherry/internal/network"
)

// mac is the hardware address that a container had in its configuration before
// 1.44: the one that was wished for its main network. nil for none.
func mac(r *container.InspectResponse) network.HardwareAddr {
	if r.NetworkSettings == nil {
		return nil
	}
	var mode container.NetworkMode
	if r.HostConfig != nil {
		mode = r.HostConfig.NetworkMode
	}
	nets, name := r.NetworkSettings.Networks, network.NetworkBridge
	if mode != "" && !mode.IsDefault() {
		name = mode.NetworkName()
	}
	e := nets[name]
	if e == nil && mode.IsUserDefined() && len(nets) == 1 { // the mode may be its id
		for _, e = range nets {
			break
		}
	}
	if e == nil {
		return nil
	}
	return engine.AtRest(e).MacAddress
}
