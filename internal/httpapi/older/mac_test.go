package older

import (
	"encoding/json"
	"maps"
	"net/netip"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// TestWishedMAC: clients before 1.44 see in the configuration the hardware
// address that a user wished, and none that was chosen: they make containers of it.
func TestWishedMAC(t *testing.T) {
	wished := network.EndpointSettings{IPAddress: netip.MustParseAddr("10.0.0.2"), MacAddress: network.HardwareAddr{2, 0, 0, 0, 0, 9}}
	for _, c := range []struct {
		ep   network.EndpointSettings // on the default network
		want string
		mode container.NetworkMode
		more map[string]*network.EndpointSettings
	}{
		{network.EndpointSettings{IPAddress: netip.MustParseAddr("172.17.0.2"), MacAddress: network.HardwareAddr{2, 0x42, 172, 17, 0, 2}}, "", "", nil},
		{network.EndpointSettings{IPAddress: netip.MustParseAddr("172.17.0.2"), MacAddress: network.HardwareAddr{2, 0, 0, 0, 0, 7}}, "02:00:00:00:00:07", "", nil},
		{network.EndpointSettings{MacAddress: network.HardwareAddr{2, 0, 0, 0, 0, 7}}, "02:00:00:00:00:07", "", nil},
		{network.EndpointSettings{}, "", "", nil},
		{network.EndpointSettings{}, "02:00:00:00:00:09", "user", map[string]*network.EndpointSettings{"user": &wished, "other": {MacAddress: network.HardwareAddr{2, 0, 0, 0, 0, 1}}}},
		{network.EndpointSettings{}, "", "default", map[string]*network.EndpointSettings{"user": &wished}},
		{network.EndpointSettings{}, "02:00:00:00:00:09", "0123456789ab", map[string]*network.EndpointSettings{"bridge": nil, "user": &wished}},
	} {
		nets := map[string]*network.EndpointSettings{"bridge": &c.ep}
		maps.Copy(nets, c.more)
		maps.DeleteFunc(nets, func(_ string, e *network.EndpointSettings) bool { return e == nil })
		in := &container.InspectResponse{HostConfig: &container.HostConfig{NetworkMode: c.mode}, NetworkSettings: &container.NetworkSettings{Networks: nets}}
		for _, v := range []int{41, 44} {
			b, err := Marshal(Container(in, v))
			var out struct{ Config struct{ MacAddress string } }
			if err == nil {
				err = json.Unmarshal(b, &out)
			}
			want := c.want
			if v >= 44 {
				want = ""
			}
			if err != nil || out.Config.MacAddress != want {
				t.Errorf("1.%d, %+v: %q, want %q: %v", v, c.ep, out.Config.MacAddress, want, err)
			}
		}
	}
}
