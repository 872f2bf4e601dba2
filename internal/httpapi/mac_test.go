package httpapi

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// TestWishedMAC: clients before 1.44 see in the configuration the hardware
// address that a user wished, and none that was chosen: they make containers of it.
func TestWishedMAC(t *testing.T) {
	for _, c := range []struct {
		ep   network.EndpointSettings
		want string
	}{
		{network.EndpointSettings{IPAddress: netip.MustParseAddr("172.17.0.2"), MacAddress: network.HardwareAddr{2, 0x42, 172, 17, 0, 2}}, ""},
		{network.EndpointSettings{IPAddress: netip.MustParseAddr("172.17.0.2"), MacAddress: network.HardwareAddr{2, 0, 0, 0, 0, 7}}, "02:00:00:00:00:07"},
		{network.EndpointSettings{MacAddress: network.HardwareAddr{2, 0, 0, 0, 0, 7}}, "02:00:00:00:00:07"},
		{network.EndpointSettings{}, ""},
	} {
		in := &container.InspectResponse{NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{"bridge": &c.ep}}}
		for _, v := range []int{41, 44} {
			b, err := marshal(legacyInspect(in, version(v)))
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
