package lifecycle

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/lifecycle/request"
	"github.com/wherry-engine/wherry/internal/runtime/spec"
)

// Rename gives a container another name. The new name is on disk on return.
func (e *Engine) Rename(ctx context.Context, ref, name string) error {
	c, err := e.store.Get(ref)
	if err != nil {
		return err
	}
	name = strings.TrimPrefix(name, "/")
	if name == "" {
		return invalid("Neither old nor new names may be empty")
	}
	if !id.ValidName(name) {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("Error when allocating new name: Invalid container name (/%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name))
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	c.Lock()
	old := c.Name
	c.Unlock()
	if old == name {
		return invalid("Renaming a container with the same name as its current name")
	}
	if err := e.store.Reserve(name, c.ID); err != nil {
		return errdefs.ErrConflict.WithMessage("Error when allocating new name: " + err.Error())
	}
	c.Lock()
	e.store.Rename(c, name)
	if err := c.Save(atomicfile.Synced); err != nil {
		e.store.Rename(c, old)
		_ = e.store.Reserve(old, c.ID) // it was free a moment ago and c is locked
		c.Unlock()
		return err
	}
	c.Unlock()
	e.networks.Rename(c.ID, name)
	e.publish(c, events.ActionRename, map[string]string{"oldName": "/" + old})
	return nil
}

// Update changes limits and the restart policy, also of a running container.
// Zero values leave a setting as it is. What was changed is on disk on return.
func (e *Engine) Update(ctx context.Context, ref string, r *apicontainer.UpdateConfig) (apicontainer.UpdateResponse, error) {
	resp := apicontainer.UpdateResponse{Warnings: []string{}}
	c, err := e.store.Get(ref)
	if err != nil {
		return resp, err
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	c.Lock()
	defer c.Unlock()
	cannot := func(err error) error {
		return fmt.Errorf("Cannot update container %s: %w", c.ID, err)
	}
	if c.State.Removing || c.State.Dead {
		return resp, cannot(errdefs.ErrConflict.WithMessage("container is marked for removal and cannot be \"update\""))
	}
	next := *c.HostConfig
	if r.RestartPolicy.Name != "" {
		if next.AutoRemove && !r.RestartPolicy.IsNone() {
			return resp, cannot(errdefs.ErrInvalidArgument.WithMessage("Restart policy cannot be updated because AutoRemove is enabled for the container"))
		}
		next.RestartPolicy = r.RestartPolicy
	}
	if r.NanoCPUs == 0 || r.CPUPeriod == 0 && r.CPUQuota == 0 { // else the request contradicts itself
		if err := request.Contradicts(&next.Resources, &r.Resources); err != nil {
			return resp, cannot(err)
		}
	}
	request.Update(&next.Resources, &r.Resources)
	warnings, err := request.Validate(nil, &next, e.cgroups.Features())
	resp.Warnings = append(resp.Warnings, warnings...)
	if err != nil {
		return resp, err
	}
	limits := func(r *apicontainer.Resources) ([]string, error) {
		if !c.State.Running || c.State.Restarting {
			return nil, nil
		}
		g, err := e.cgroups.Open(c.CgroupPath)
		if err != nil {
			return nil, err
		}
		return g.Set(spec.Resources(r))
	}
	before, tried := &c.HostConfig.Resources, false
	err = c.Configure(&next, atomicfile.Synced, func() error {
		tried = true
		warnings, err := limits(&next.Resources)
		resp.Warnings = append(resp.Warnings, warnings...)
		return err
	})
	if err != nil {
		if tried { // some of it may be in force
			_, back := limits(before)
			warn("take back limits", c.ID, back)
		}
		return resp, cannot(err)
	}
	e.events.Container(events.ActionUpdate, c.ID, c.Attributes(nil))
	return resp, nil
}
