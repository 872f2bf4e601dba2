package lifecycle

import (
	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/logs"
	"github.com/wherry-engine/wherry/internal/logs/driver"
)

func logConfig(r *container.Record) driver.Config {
	return driver.Config{Type: r.HostConfig.LogConfig.Type, Options: r.HostConfig.LogConfig.Config}
}

func logInfo(r *container.Record) *driver.Info {
	return &driver.Info{
		ContainerID: r.ID, ContainerName: "/" + r.Name, ContainerEntrypoint: r.Path, ContainerArgs: r.Args, ContainerImageID: r.ImageID,
		ContainerImageName: r.Config.Image, ContainerCreated: r.Created, ContainerEnv: r.Config.Env, ContainerLabels: r.Config.Labels,
		LogPath: r.LogPath, DaemonName: "docker", HostName: hostname(),
	}
}

// logTarget is where the keeper writes what the container writes.
func logTarget(r *container.Record, dir string) (logs.Target, error) {
	return driver.Target(logConfig(r), logInfo(r), dir)
}

// ship begins to send the log of a container whose driver is a remote one.
func (p *parts) ship(r *container.Record, dir string) {
	cfg := logConfig(r)
	if !cfg.Remote() {
		return
	}
	sink, err := driver.Remote(cfg, logInfo(r))
	if err != nil {
		warn("send log", r.ID, err)
		return
	}
	files, err := driver.Files(cfg, dir, r.ID)
	if err != nil {
		warn("send log", r.ID, err)
		return
	}
	p.shipper.Start(r.ID, dir, files, sink)
}
