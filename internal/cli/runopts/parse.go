package runopts

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/spf13/pflag"
)

// Container is the body of a create request.
type Container struct {
	Config     *container.Config
	Host       *container.HostConfig
	Networking *network.NetworkingConfig
}

// Supported refuses flags that no engine on Linux can honour.
func Supported(f *pflag.FlagSet) error {
	var errs []error
	for _, name := range []string{"cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops"} {
		if f.Changed(name) {
			errs = append(errs, fmt.Errorf("%q is only supported on a Docker daemon running on windows, but the Docker daemon is running on linux", "--"+name))
		}
	}
	return errors.Join(errs...)
}

// LocalDNS returns the DNS servers that mean the container itself when used
// inside it.
func (c *Container) LocalDNS() []string {
	var out []string
	for _, a := range c.Host.DNS {
		if a.IsLoopback() {
			out = append(out, a.String())
		}
	}
	return out
}

// Parse validates the options together and builds the request. It reads the
// files that flags name (env, labels, seccomp profiles). f tells which flags
// were given, where that matters.
func (o *Options) Parse(f *pflag.FlagSet) (*Container, error) {
	if o.mac != "" {
		if _, err := net.ParseMAC(strings.TrimSpace(o.mac)); err != nil {
			return nil, fmt.Errorf("%s is not a valid mac address", o.mac)
		}
	}
	if o.swappiness < -1 || o.swappiness > 100 {
		return nil, fmt.Errorf("invalid value: %d. Valid memory swappiness range is 0-100", o.swappiness)
	}
	binds, anonymous, err := splitVolumes(o.volumes.GetSlice())
	if err != nil {
		return nil, err
	}
	exposed, bindings, err := parsePorts(o.publish.GetSlice(), o.expose.GetSlice())
	if err != nil {
		return nil, err
	}
	config, err := o.config(f)
	if err != nil {
		return nil, err
	}
	config.ExposedPorts, config.Volumes = exposed, anonymous
	host, err := o.host(f)
	if err != nil {
		return nil, err
	}
	host.Binds, host.PortBindings = binds, bindings
	if o.AutoRemove && !host.RestartPolicy.IsNone() {
		return nil, errors.New("conflicting options: cannot specify both --restart and --rm")
	}
	endpoints, err := o.endpoints()
	if err != nil {
		return nil, err
	}
	return &Container{config, host, &network.NetworkingConfig{EndpointsConfig: endpoints}}, nil
}

func (o *Options) config(f *pflag.FlagSet) (*container.Config, error) {
	env, err := opts.ReadKVEnvStrings(o.envFile.GetSlice(), o.Env.GetSlice())
	if err != nil {
		return nil, err
	}
	labels, err := opts.ReadKVStrings(o.labelFiles.GetSlice(), o.labels.GetSlice())
	if err != nil {
		return nil, err
	}
	check, err := o.healthcheck()
	if err != nil {
		return nil, err
	}
	c := &container.Config{
		Hostname:     o.hostname,
		Domainname:   o.domainname,
		User:         o.user,
		AttachStdin:  o.stdin || o.Attach.Get("stdin"),
		AttachStdout: o.Attach.Len() == 0 || o.Attach.Get("stdout"),
		AttachStderr: o.Attach.Len() == 0 || o.Attach.Get("stderr"),
		Tty:          o.tty,
		OpenStdin:    o.stdin,
		Env:          env,
		Image:        o.Image,
		WorkingDir:   o.workingDir,
		Labels:       opts.ConvertKVStringsToMap(labels),
		StopSignal:   o.stopSignal,
		Healthcheck:  check,
	}
	if len(o.Args) > 0 {
		c.Cmd = o.Args
	}
	if o.entrypoint != "" || f.Changed("entrypoint") {
		c.Entrypoint = []string{o.entrypoint} // "" resets the image's
	}
	if f.Changed("stop-timeout") {
		c.StopTimeout = &o.stopTimeout
	}
	// Nobody can come back to an attached stdin, so the program shall see its end.
	c.StdinOnce = c.OpenStdin && c.AttachStdin
	return c, nil
}

func (o *Options) host(f *pflag.FlagSet) (*container.HostConfig, error) {
	if err := o.checkNamespaces(); err != nil {
		return nil, err
	}
	restart, err := opts.ParseRestartPolicy(o.restart)
	if err != nil {
		return nil, err
	}
	if o.logDriver == "none" && o.logOpts.Len() > 0 {
		return nil, fmt.Errorf("invalid logging opts for driver %s", o.logDriver)
	}
	security, masked, readonly, err := parseSecurity(o.securityOpt.GetSlice())
	if err != nil {
		return nil, err
	}
	storageOpt, err := parseStorageOpt(o.storageOpt.GetSlice())
	if err != nil {
		return nil, err
	}
	res, err := o.limits()
	if err != nil {
		return nil, err
	}
	annotations, err := o.extend(o.annotations.GetAll())
	if err != nil {
		return nil, err
	}
	h := &container.HostConfig{
		ContainerIDFile: o.CIDFile,
		OomScoreAdj:     o.oomScoreAdj,
		AutoRemove:      o.AutoRemove,
		Privileged:      o.privileged,
		Links:           o.links.GetSlice(),
		PublishAllPorts: o.publishAll,
		DNS:             addrs(o.dns.GetAllOrEmpty()),
		DNSSearch:       o.dnsSearch.GetAllOrEmpty(),
		DNSOptions:      o.dnsOptions.GetAllOrEmpty(),
		ExtraHosts:      o.extraHosts.GetSlice(),
		VolumesFrom:     o.volumesFrom.GetSlice(),
		IpcMode:         container.IpcMode(o.ipc),
		NetworkMode:     container.NetworkMode(o.nets.NetworkMode()),
		PidMode:         container.PidMode(o.pid),
		UTSMode:         container.UTSMode(o.uts),
		UsernsMode:      container.UsernsMode(o.userns),
		CgroupnsMode:    container.CgroupnsMode(o.cgroupns),
		CapAdd:          o.capAdd.GetSlice(),
		CapDrop:         o.capDrop.GetSlice(),
		GroupAdd:        o.groupAdd.GetSlice(),
		RestartPolicy:   restart,
		SecurityOpt:     security,
		MaskedPaths:     masked,
		ReadonlyPaths:   readonly,
		StorageOpt:      storageOpt,
		ReadonlyRootfs:  o.readOnly,
		LogConfig:       container.LogConfig{Type: o.logDriver, Config: opts.ConvertKVStringsToMap(o.logOpts.GetSlice())},
		VolumeDriver:    o.volumeDriver,
		Isolation:       container.Isolation(o.isolation),
		ShmSize:         o.shmSize.Value(),
		Resources:       res,
		Tmpfs:           parseTmpfs(o.tmpfs.GetSlice()),
		Sysctls:         o.sysctls.GetAll(),
		Runtime:         o.runtime,
		Mounts:          o.mounts.Value(),
		Annotations:     annotations,
	}
	if f.Changed("init") {
		h.Init = &o.init
	}
	return h, nil
}

func (o *Options) checkNamespaces() error {
	switch {
	case !container.PidMode(o.pid).Valid():
		return errors.New("--pid: invalid PID mode")
	case !container.UTSMode(o.uts).Valid():
		return errors.New("--uts: invalid UTS mode")
	case !container.UsernsMode(o.userns).Valid():
		return errors.New("--userns: invalid USER mode")
	case !container.CgroupnsMode(o.cgroupns).Valid():
		return errors.New("--cgroupns: invalid CGROUP mode")
	}
	return nil
}

func (o *Options) limits() (container.Resources, error) {
	devices, cdi, err := parseDevices(o.devices.GetSlice())
	if err != nil {
		return container.Resources{}, err
	}
	requests := o.gpus.Value()
	if len(cdi) > 0 {
		requests = append(requests, container.DeviceRequest{Driver: "cdi", DeviceIDs: cdi})
	}
	return container.Resources{
		CgroupParent:         o.cgroupRoot,
		Memory:               o.memory.Value(),
		MemoryReservation:    o.memoryReservation.Value(),
		MemorySwap:           o.memorySwap.Value(),
		MemorySwappiness:     &o.swappiness,
		OomKillDisable:       &o.oomKillDisable,
		NanoCPUs:             o.cpus.Value(),
		CPUCount:             o.cpuCount,
		CPUPercent:           o.cpuPercent,
		CPUShares:            o.cpuShares,
		CPUPeriod:            o.cpuPeriod,
		CPUQuota:             o.cpuQuota,
		CPURealtimePeriod:    o.cpuRTPeriod,
		CPURealtimeRuntime:   o.cpuRTRuntime,
		CpusetCpus:           o.cpusetCPUs,
		CpusetMems:           o.cpusetMems,
		PidsLimit:            &o.pidsLimit,
		BlkioWeight:          o.blkioWeight,
		BlkioWeightDevice:    o.blkioWeightDevice.GetList(),
		BlkioDeviceReadBps:   o.readBps.GetList(),
		BlkioDeviceWriteBps:  o.writeBps.GetList(),
		BlkioDeviceReadIOps:  o.readIOps.GetList(),
		BlkioDeviceWriteIOps: o.writeIOps.GetList(),
		IOMaximumIOps:        o.ioMaxIOps,
		IOMaximumBandwidth:   uint64(o.ioBandwidth.Value()),
		Ulimits:              o.ulimits.GetList(),
		DeviceCgroupRules:    o.deviceRules.GetSlice(),
		Devices:              devices,
		DeviceRequests:       requests,
	}, nil
}

func (o *Options) healthcheck() (*container.HealthConfig, error) {
	h := &o.health
	given := h.cmd != "" || h.interval != 0 || h.timeout != 0 || h.startPeriod != 0 || h.startIntervl != 0 || h.retries != 0
	switch {
	case h.none && given:
		return nil, errors.New("--no-healthcheck conflicts with --health-* options")
	case h.none:
		return &container.HealthConfig{Test: []string{"NONE"}}, nil
	case !given:
		return nil, nil
	}
	for _, v := range []struct {
		name     string
		negative bool
	}{
		{"interval", h.interval < 0}, {"timeout", h.timeout < 0}, {"retries", h.retries < 0},
		{"start-period", h.startPeriod < 0}, {"start-interval", h.startIntervl < 0},
	} {
		if v.negative {
			return nil, fmt.Errorf("--health-%s cannot be negative", v.name)
		}
	}
	c := &container.HealthConfig{
		Interval: h.interval, Timeout: h.timeout, Retries: h.retries,
		StartPeriod: h.startPeriod, StartInterval: h.startIntervl,
	}
	if h.cmd != "" {
		c.Test = []string{"CMD-SHELL", h.cmd}
	}
	return c, nil
}
