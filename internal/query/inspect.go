package query

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	apicontainer "github.com/moby/moby/api/types/container"
	apinetwork "github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

// Inspect tells everything about one container.
func (v *View) Inspect(ctx context.Context, ref string, size bool) (*apicontainer.InspectResponse, error) {
	c, err := v.store.Get(ref)
	if err != nil {
		return nil, err
	}
	r := c.Snapshot()
	dir := c.Dir()
	resp := &apicontainer.InspectResponse{
		ID: r.ID, Created: r.Created.Format(time.RFC3339Nano), Path: r.Path, Args: append([]string{}, r.Args...), State: state(&r),
		Image: r.ImageID, LogPath: r.LogPath, Name: "/" + r.Name, RestartCount: r.RestartCount, Driver: r.Driver, Platform: r.Platform,
		MountLabel: r.MountLabel, ProcessLabel: r.ProcessLabel, AppArmorProfile: r.AppArmorProfile,
		HostConfig: r.HostConfig, Config: r.Config, Mounts: v.mounts(&r), ImageManifestDescriptor: r.ImageManifest,
		GraphDriver: v.storage(&r),
	}
	if len(r.HostConfig.Links) > 0 && !r.HostConfig.NetworkMode.IsUserDefined() {
		h := *r.HostConfig
		h.Links = v.store.ShownLinks(&r)
		resp.HostConfig = &h
	}
	if ids := v.execs.ExecIDs(r.ID); len(ids) > 0 {
		slices.Sort(ids)
		resp.ExecIDs = ids
	}
	if !r.State.StartedAt.IsZero() && !r.HostConfig.NetworkMode.IsContainer() {
		resp.ResolvConfPath, resp.HostsPath = filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "hosts")
	}
	if !r.State.StartedAt.IsZero() {
		resp.HostnamePath = filepath.Join(dir, "hostname")
	}
	resp.NetworkSettings = &apicontainer.NetworkSettings{SandboxID: r.SandboxID, Ports: r.Ports, Networks: networks(&r)}
	if r.SandboxID != "" && r.State.Pid != 0 {
		resp.NetworkSettings.SandboxKey = "/proc/" + itoa(r.State.Pid) + "/ns/net"
	}
	if resp.NetworkSettings.Ports == nil {
		resp.NetworkSettings.Ports = apinetwork.PortMap{}
	}
	if size {
		rw, root, err := v.sizes(ctx, &r)
		if err != nil {
			return nil, err
		}
		resp.SizeRw, resp.SizeRootFs = &rw, &root
	}
	return resp, nil
}

func state(r *container.Record) *apicontainer.State {
	s := r.State
	return &apicontainer.State{
		Status: s.Status(), Running: s.Running, Paused: s.Paused, Restarting: s.Restarting, OOMKilled: s.OOMKilled, Dead: s.Dead,
		Pid: s.Pid, ExitCode: s.ExitCode, Error: s.Error, StartedAt: s.StartedAt.Format(time.RFC3339Nano), FinishedAt: s.FinishedAt.Format(time.RFC3339Nano), Health: s.Health,
	}
}

// storage tells where the files are. The merged view is mounted inside the
// container only, so its directory is named through the process.
func (v *View) storage(r *container.Record) *storage.DriverData {
	d := &storage.DriverData{Name: r.Driver, Data: map[string]string{"ID": r.ID}}
	w, err := v.snapshots.OpenWritable(r.ID, snapshot.Lower{})
	if err != nil {
		return d
	}
	if w.Dir != "" {
		d.Data["Dir"] = w.Dir
		return d
	}
	d.Data["UpperDir"], d.Data["WorkDir"], d.Data["LowerDir"] = w.Upper, w.Work, join(w.Lower)
	if r.State.Pid != 0 {
		d.Data["MergedDir"] = "/proc/" + itoa(r.State.Pid) + "/root"
	}
	return d
}
