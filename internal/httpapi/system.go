package httpapi

import (
	"net/http"

	"github.com/moby/moby/api/types/system"
)

func systemRoutes(b *Backends) []route {
	h := systemHandlers{b}
	return []route{
		{method: get, path: "/version", handle: h.version},
		{method: get, path: "/info", handle: h.info},
		{method: get, path: "/events", handle: h.events},
	}
}

type systemHandlers struct{ *Backends }

func (h systemHandlers) version(c *call) error {
	return c.reply(http.StatusOK, h.Views.Version())
}

func (h systemHandlers) info(c *call) error {
	info, err := h.Views.Info(c.ctx())
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, legacyInfo(info, c.version))
}

// legacyInfo gives older clients the answer that they know.
func legacyInfo(from *system.Info, v version) any {
	info := *from
	more := fields{}
	if v.before(44) {
		plain := make(map[string]system.RuntimeWithStatus, len(info.Runtimes))
		for name, r := range info.Runtimes {
			plain[name] = system.RuntimeWithStatus{Runtime: r.Runtime}
		}
		info.Runtimes = plain
	}
	if v.before(46) {
		info.Containerd = nil
	}
	if v.before(47) {
		more["RegistryConfig"] = fields{
			"AllowNondistributableArtifactsCIDRs":     nil,
			"AllowNondistributableArtifactsHostnames": nil,
		}
	}
	if v.before(49) {
		info.FirewallBackend = nil
		more["ContainerdCommit"] = fields{"Expected": info.ContainerdCommit.ID}
		more["RuncCommit"] = fields{"Expected": info.RuncCommit.ID}
		more["InitCommit"] = fields{"Expected": info.InitCommit.ID}
	}
	if v.before(50) {
		info.DiscoveredDevices = nil
		more["BridgeNfIptables"] = false
		more["BridgeNfIp6tables"] = false
	}
	if v.before(53) {
		info.NRI = nil
	}
	return extended{&info, more}
}
