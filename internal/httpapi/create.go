package httpapi

import (
	"net/http"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/httpapi/older"
	"github.com/wherry-engine/wherry/internal/lifecycle"
)

func (h containerHandlers) create(c *call) error {
	if err := c.checkJSON(); err != nil {
		return err
	}
	data, err := c.body()
	if err != nil {
		return err
	}
	var req struct {
		container.CreateRequest
		Runtime string // docker-py's place for it
	}
	if err := decode(data, &req); err != nil {
		return err
	}
	if req.Config == nil {
		return invalid("config cannot be empty in order to create a container")
	}
	if req.HostConfig == nil {
		req.HostConfig = &container.HostConfig{}
	}
	if req.HostConfig.Runtime == "" {
		req.HostConfig.Runtime = req.Runtime
	}
	if req.NetworkingConfig == nil {
		req.NetworkingConfig = &network.NetworkingConfig{}
	}
	warnings, err := older.Create(&req.CreateRequest, data, int(c.version), h.Cgroup2)
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
