package httpapi

import (
	"net/http"
	"regexp"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/httpapi/older"
	"github.com/wherry-engine/wherry/internal/lifecycle"
)

// namesRuntime finds a runtime that is not in HostConfig: docker-py names it
// beside that.
var namesRuntime = regexp.MustCompile(`"Runtime":\s*"[^"]`)

func (h containerHandlers) create(c *call) error {
	if err := c.checkJSON(); err != nil {
		return err
	}
	data, err := c.body()
	if err != nil {
		return err
	}
	var req container.CreateRequest
	if err := decode(data, &req); err != nil {
		return err
	}
	if req.Config == nil {
		return invalid("config cannot be empty in order to create a container")
	}
	if req.HostConfig == nil {
		req.HostConfig = &container.HostConfig{}
	}
	if req.HostConfig.Runtime == "" && namesRuntime.Match(data) {
		var beside struct{ Runtime string }
		if err := decode(data, &beside); err != nil {
			return err
		}
		req.HostConfig.Runtime = beside.Runtime
	}
	if req.NetworkingConfig == nil {
		req.NetworkingConfig = &network.NetworkingConfig{}
	}
	warnings, err := older.Create(&req, data, int(c.version), h.Cgroup2)
	if err != nil {
		return err
	}
	platform := ""
	if !c.version.before(41) {
		platform = c.arg("platform")
	}
	r, err := h.Lifecycle.Create(c.lasting(), lifecycle.CreateRequest{
		Name: c.arg("name"), Config: req.Config, HostConfig: req.HostConfig, Networking: req.NetworkingConfig, Platform: platform,
	})
	if err != nil {
		return err
	}
	if r.Warnings = append(r.Warnings, warnings...); r.Warnings == nil {
		r.Warnings = []string{}
	}
	return c.reply(http.StatusCreated, r)
}
