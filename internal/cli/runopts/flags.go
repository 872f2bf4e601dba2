// Package runopts owns the flags of run and create: their names and help, and
// the translation of what the user typed into the engine's container
// configuration, byte for byte what docker's CLI sends.
package runopts

import (
	"time"

	"github.com/docker/cli/opts"
	"github.com/spf13/pflag"
)

// Options is what was typed. Image and Args are set by the caller from the
// positional arguments before Parse.
type Options struct {
	Image string
	Args  []string

	AutoRemove bool
	CIDFile    string
	Attach     opts.ListOpts
	Env        opts.ListOpts

	process
	resources
	networking
	storage
	health
	extensions
}

type process struct {
	stdin, tty                                bool
	user, workingDir, entrypoint              string
	hostname, domainname                      string
	envFile, labels, labelFiles, groupAdd     opts.ListOpts
	capAdd, capDrop, securityOpt              opts.ListOpts
	restart, stopSignal                       string
	stopTimeout                               int
	init, privileged, readOnly                bool
	annotations, sysctls                      *opts.MapOpts
	pid, ipc, uts, userns, cgroupns           string
	isolation, runtime, logDriver, cgroupRoot string
	logOpts                                   opts.ListOpts
}

type resources struct {
	memory, memoryReservation, shmSize, kernelMemory, ioBandwidth opts.MemBytes
	memorySwap                                                    opts.MemSwapBytes
	swappiness                                                    int64
	oomKillDisable                                                bool
	oomScoreAdj                                                   int
	cpus                                                          opts.NanoCPUs
	cpuCount, cpuPercent, cpuPeriod, cpuQuota, cpuShares          int64
	cpuRTPeriod, cpuRTRuntime, pidsLimit                          int64
	cpusetCPUs, cpusetMems                                        string
	blkioWeight                                                   uint16
	blkioWeightDevice                                             opts.WeightdeviceOpt
	readBps, writeBps, readIOps, writeIOps                        opts.ThrottledeviceOpt
	ioMaxIOps                                                     uint64
	ulimits                                                       *opts.UlimitOpt
	devices, deviceRules                                          opts.ListOpts
	gpus                                                          opts.GpuOpts
}

type networking struct {
	nets                                  opts.NetworkOpt
	aliases, links, linkLocal, extraHosts opts.ListOpts
	dns, dnsOptions, dnsSearch            opts.ListOpts
	publish, expose                       opts.ListOpts
	publishAll                            bool
	ip, ip6, mac                          string
}

type storage struct {
	volumes, volumesFrom, tmpfs, storageOpt opts.ListOpts
	mounts                                  mountOpt
	volumeDriver                            string
}

type health struct {
	cmd                                          string
	interval, timeout, startPeriod, startIntervl time.Duration
	retries                                      int
	none                                         bool
}

// AddFlags registers every container flag of run and create.
func AddFlags(f *pflag.FlagSet) *Options {
	o := &Options{
		Attach: opts.NewListOpts(validAttach),
		Env:    opts.NewListOpts(opts.ValidateEnv),
	}
	o.addProcess(f)
	o.addIsolation(f)
	o.addResources(f)
	o.addBlockIO(f)
	o.addNetworking(f)
	o.addStorage(f)
	o.addHealth(f)
	o.addExtensions(f)
	return o
}

func (o *Options) addProcess(f *pflag.FlagSet) {
	o.envFile, o.labelFiles = opts.NewListOpts(nil), opts.NewListOpts(nil)
	o.labels, o.groupAdd = opts.NewListOpts(opts.ValidateLabel), opts.NewListOpts(nil)
	o.annotations = opts.NewMapOpts(nil, nil)
	o.logOpts = opts.NewListOpts(nil)
	f.VarP(&o.Attach, "attach", "a", "Attach to STDIN, STDOUT or STDERR")
	f.VarP(&o.Env, "env", "e", "Set environment variables")
	f.Var(&o.envFile, "env-file", "Read environment variables from a file")
	f.StringVar(&o.entrypoint, "entrypoint", "", "Command to use in place of the image's ENTRYPOINT")
	f.Var(&o.groupAdd, "group-add", "Additional groups to join")
	f.StringVarP(&o.hostname, "hostname", "h", "", "Container host name")
	f.StringVar(&o.domainname, "domainname", "", "Container NIS domain name")
	f.BoolVarP(&o.stdin, "interactive", "i", false, "Keep STDIN open, attached or not")
	f.VarP(&o.labels, "label", "l", "Set labels on the container")
	f.Var(&o.labelFiles, "label-file", "Read labels from a file, one on each line")
	f.StringVar(&o.restart, "restart", "no", "Restart policy for when the container exits")
	f.StringVar(&o.stopSignal, "stop-signal", "", "Signal that stops the container")
	f.IntVar(&o.stopTimeout, "stop-timeout", 0, "Seconds that stopping may take before a kill")
	f.BoolVarP(&o.tty, "tty", "t", false, "Allocate a pseudo-TTY")
	f.StringVarP(&o.user, "user", "u", "", "User name or UID (<name|uid>[:<group|gid>])")
	f.StringVarP(&o.workingDir, "workdir", "w", "", "Working directory inside the container")
	f.BoolVar(&o.AutoRemove, "rm", false, "Remove the container and its anonymous volumes when it exits")
	f.StringVar(&o.CIDFile, "cidfile", "", "File to write the container ID to")
	f.BoolVar(&o.init, "init", false, "Run an init that forwards signals and reaps processes")
	f.Var(o.annotations, "annotation", "Annotations for the OCI runtime")
	f.StringVar(&o.logDriver, "log-driver", "", "Logging driver for the container")
	f.Var(&o.logOpts, "log-opt", "Log driver options")
}

func (o *Options) addIsolation(f *pflag.FlagSet) {
	o.capAdd, o.capDrop, o.securityOpt = opts.NewListOpts(nil), opts.NewListOpts(nil), opts.NewListOpts(nil)
	o.sysctls = opts.NewMapOpts(nil, opts.ValidateSysctl)
	f.Var(&o.capAdd, "cap-add", "Add Linux capabilities")
	f.Var(&o.capDrop, "cap-drop", "Drop Linux capabilities")
	f.BoolVar(&o.privileged, "privileged", false, "Give the container extended privileges")
	f.Var(&o.securityOpt, "security-opt", "Security options")
	f.BoolVar(&o.readOnly, "read-only", false, "Make the root filesystem of the container read-only")
	f.StringVar(&o.userns, "userns", "", "User namespace to use")
	f.StringVar(&o.cgroupns, "cgroupns", "", "Cgroup namespace to use (host|private);\n"+
		"without it the engine's default-cgroupns-mode holds")
	f.StringVar(&o.ipc, "ipc", "", "IPC mode to use")
	f.StringVar(&o.pid, "pid", "", "PID namespace to use")
	f.StringVar(&o.uts, "uts", "", "UTS namespace to use")
	f.StringVar(&o.isolation, "isolation", "", "Container isolation technology")
	f.StringVar(&o.runtime, "runtime", "", "Runtime for this container")
	f.StringVar(&o.cgroupRoot, "cgroup-parent", "", "Parent cgroup for the container")
	f.Var(o.sysctls, "sysctl", "Sysctl options")
}

func (o *Options) addResources(f *pflag.FlagSet) {
	o.ulimits = opts.NewUlimitOpt(nil)
	o.devices, o.deviceRules = opts.NewListOpts(nil), opts.NewListOpts(validDeviceRule)
	f.VarP(&o.memory, "memory", "m", "Memory limit")
	f.Var(&o.memoryReservation, "memory-reservation", "Memory soft limit")
	f.Var(&o.memorySwap, "memory-swap", "Limit of memory and swap together, '-1' for unlimited swap")
	f.Int64Var(&o.swappiness, "memory-swappiness", -1, "Memory swappiness of the container (0 to 100)")
	f.Var(&o.kernelMemory, "kernel-memory", "Kernel memory limit")
	_ = f.MarkDeprecated("kernel-memory", "and no longer supported by the kernel")
	f.BoolVar(&o.oomKillDisable, "oom-kill-disable", false, "Disable OOM killer")
	f.IntVar(&o.oomScoreAdj, "oom-score-adj", 0, "Host's OOM preference for the container (-1000 to 1000)")
	f.Int64Var(&o.pidsLimit, "pids-limit", 0, "Limit on the number of processes (-1 for unlimited)")
	f.Var(&o.cpus, "cpus", "Number of CPUs")
	f.Int64VarP(&o.cpuShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	f.Int64Var(&o.cpuPeriod, "cpu-period", 0, "Period of the CPU CFS limit")
	f.Int64Var(&o.cpuQuota, "cpu-quota", 0, "Quota of the CPU CFS limit")
	f.Int64Var(&o.cpuRTPeriod, "cpu-rt-period", 0, "Real-time CPU period in microseconds")
	f.Int64Var(&o.cpuRTRuntime, "cpu-rt-runtime", 0, "Real-time CPU runtime in microseconds")
	f.Int64Var(&o.cpuCount, "cpu-count", 0, "CPU count (Windows only)")
	f.Int64Var(&o.cpuPercent, "cpu-percent", 0, "CPU percent (Windows only)")
	f.StringVar(&o.cpusetCPUs, "cpuset-cpus", "", "CPUs that may be used (0-3, 0,1)")
	f.StringVar(&o.cpusetMems, "cpuset-mems", "", "Memory nodes that may be used (0-3, 0,1)")
	f.Var(&o.shmSize, "shm-size", "Size of /dev/shm")
	f.Var(o.ulimits, "ulimit", "Ulimit options")
	f.Var(&o.devices, "device", "Host device to add to the container")
	f.Var(&o.deviceRules, "device-cgroup-rule", "Rule to add to the list of allowed devices")
	f.Var(&o.gpus, "gpus", "GPU devices to add to the container ('all' for every GPU)")
}

func (o *Options) addBlockIO(f *pflag.FlagSet) {
	o.blkioWeightDevice = opts.NewWeightdeviceOpt(opts.ValidateWeightDevice)
	o.readBps = opts.NewThrottledeviceOpt(opts.ValidateThrottleBpsDevice)
	o.writeBps = opts.NewThrottledeviceOpt(opts.ValidateThrottleBpsDevice)
	o.readIOps = opts.NewThrottledeviceOpt(opts.ValidateThrottleIOpsDevice)
	o.writeIOps = opts.NewThrottledeviceOpt(opts.ValidateThrottleIOpsDevice)
	f.Uint16Var(&o.blkioWeight, "blkio-weight", 0, "Block IO weight, 10 to 1000, or 0 for none (default 0)")
	f.Var(&o.blkioWeightDevice, "blkio-weight-device", "Block IO weight of a device")
	f.Var(&o.readBps, "device-read-bps", "Bytes per second that may be read from a device")
	f.Var(&o.writeBps, "device-write-bps", "Bytes per second that may be written to a device")
	f.Var(&o.readIOps, "device-read-iops", "Read operations per second on a device")
	f.Var(&o.writeIOps, "device-write-iops", "Write operations per second on a device")
	f.Var(&o.ioBandwidth, "io-maxbandwidth", "System drive's IO bandwidth limit (Windows only)")
	f.Uint64Var(&o.ioMaxIOps, "io-maxiops", 0, "System drive's IOps limit (Windows only)")
}

func (o *Options) addNetworking(f *pflag.FlagSet) {
	o.aliases, o.links = opts.NewListOpts(nil), opts.NewListOpts(opts.ValidateLink)
	o.linkLocal, o.extraHosts = opts.NewListOpts(nil), opts.NewListOpts(opts.ValidateExtraHost)
	o.dns, o.dnsOptions = opts.NewListOpts(opts.ValidateIPAddress), opts.NewListOpts(nil)
	o.dnsSearch = opts.NewListOpts(opts.ValidateDNSSearch)
	o.publish, o.expose = opts.NewListOpts(nil), opts.NewListOpts(nil)
	f.Var(&o.nets, "network", "Network to connect the container to")
	f.Var(&o.nets, "net", "Network to connect the container to")
	f.Var(&o.aliases, "network-alias", "Network-scoped alias of the container")
	f.Var(&o.aliases, "net-alias", "Network-scoped alias of the container")
	f.StringVar(&o.ip, "ip", "", "IPv4 address (e.g., 172.30.100.104)")
	f.StringVar(&o.ip6, "ip6", "", "IPv6 address (e.g., 2001:db8::33)")
	f.Var(&o.linkLocal, "link-local-ip", "Link-local addresses, IPv4 or IPv6")
	f.StringVar(&o.mac, "mac-address", "", "Container MAC address (e.g., 92:d0:c6:0a:29:33)")
	f.Var(&o.links, "link", "Link to another container")
	f.VarP(&o.publish, "publish", "p", "Container port(s) to make reachable on the host")
	f.BoolVarP(&o.publishAll, "publish-all", "P", false, "Give every exposed port a random host port")
	f.Var(&o.expose, "expose", "Port or range of ports to expose")
	f.Var(&o.extraHosts, "add-host", "Custom host-to-IP mapping (host:ip)")
	f.Var(&o.dns, "dns", "Custom DNS servers")
	f.Var(&o.dnsOptions, "dns-option", "DNS options")
	f.Var(&o.dnsOptions, "dns-opt", "DNS options")
	f.Var(&o.dnsSearch, "dns-search", "Custom DNS search domains")
	for _, old := range []string{"net", "net-alias", "dns-opt"} {
		_ = f.MarkHidden(old)
	}
}

func (o *Options) addStorage(f *pflag.FlagSet) {
	o.volumes, o.volumesFrom = opts.NewListOpts(nil), opts.NewListOpts(nil)
	o.tmpfs, o.storageOpt = opts.NewListOpts(nil), opts.NewListOpts(nil)
	f.VarP(&o.volumes, "volume", "v", "Bind mount a volume")
	f.Var(&o.mounts, "mount", "Attach a filesystem mount to the container")
	f.Var(&o.tmpfs, "tmpfs", "Mount a tmpfs directory")
	f.Var(&o.volumesFrom, "volumes-from", "Containers whose volumes to mount")
	f.StringVar(&o.volumeDriver, "volume-driver", "", "Volume driver for the container")
	f.Var(&o.storageOpt, "storage-opt", "Storage driver options for the container")
}

func (o *Options) addHealth(f *pflag.FlagSet) {
	f.StringVar(&o.health.cmd, "health-cmd", "", "Command that checks health")
	f.DurationVar(&o.health.interval, "health-interval", 0, "Time from one check to the next (ms|s|m|h) (default 0s)")
	f.DurationVar(&o.health.timeout, "health-timeout", 0, "Time that one check may take (ms|s|m|h) (default 0s)")
	f.DurationVar(&o.health.startPeriod, "health-start-period", 0, "Time at the start in which failures do not count (ms|s|m|h) (default 0s)")
	f.DurationVar(&o.health.startIntervl, "health-start-interval", 0, "Time between checks in the start period (ms|s|m|h) (default 0s)")
	f.IntVar(&o.health.retries, "health-retries", 0, "Failures in a row that mean unhealthy")
	f.BoolVar(&o.health.none, "no-healthcheck", false, "Disable the image's HEALTHCHECK")
}
