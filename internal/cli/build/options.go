package build

import (
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/docker/cli/opts"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// options are the flags of build.
type options struct {
	context string // the argument
	file    string
	target  string

	tags, labels, annotations       []string
	buildArgs, contexts, platforms  []string
	noCacheFilter, secrets, ssh     []string
	outputs, cacheFrom, cacheTo     []string
	attests, allow, resources       []string
	sbom, provenance                string
	noCache, pull, push, load       bool
	quiet, squash, check_, compress bool
	rm, forceRm                     bool

	hosts        opts.ListOpts
	network      string
	cgroupParent string
	isolation    string
	security     []string
	builder      string
	shmSize      opts.MemBytes
	memory       opts.MemBytes
	memorySwap   opts.MemSwapBytes
	cpus         opts.NanoCPUs
	cpuShares    int64
	cpuPeriod    int64
	cpuQuota     int64
	cpusetCpus   string
	cpusetMems   string
	ulimits      *opts.UlimitOpt

	progress     string
	iidFile      string
	metadataFile string
	callText     string
	call         call
}

// flagSet tells which flags were given.
type flagSet interface{ Changed(name string) bool }

func (o *options) addTo(cmd *cobra.Command) {
	f := cmd.Flags()
	list := func(p *[]string, name, usage string) { f.StringArrayVar(p, name, nil, usage) }
	o.hosts = opts.NewListOpts(nil)
	o.ulimits = opts.NewUlimitOpt(nil)

	f.StringArrayVarP(&o.tags, "tag", "t", nil, `Image identifier (format: "[registry/]repository[:tag]")`)
	f.StringVarP(&o.file, "file", "f", "", `Name of the Dockerfile (default: "PATH/Dockerfile")`)
	f.StringVar(&o.target, "target", "", "Set the target build stage to build")
	list(&o.buildArgs, "build-arg", "Set build-time variables")
	list(&o.contexts, "build-context", "Additional build contexts (e.g., name=path)")
	list(&o.labels, "label", "Set metadata for an image")
	list(&o.annotations, "annotation", "Add annotation to the image")
	f.StringArrayVar(&o.platforms, "platform", defaultPlatform(), "Set target platform for build")

	f.BoolVar(&o.noCache, "no-cache", false, "Do not use cache when building the image")
	list(&o.noCacheFilter, "no-cache-filter", "Do not cache specified stages")
	list(&o.cacheFrom, "cache-from", `External cache sources (e.g., "user/app:cache", "type=local,src=path/to/dir")`)
	list(&o.cacheTo, "cache-to", `Cache export destinations (e.g., "user/app:cache", "type=local,dest=path/to/dir")`)
	f.BoolVar(&o.pull, "pull", false, "Always attempt to pull all referenced images")

	list(&o.secrets, "secret", `Secret to expose to the build (format: "id=mysecret[,src=/local/secret]")`)
	list(&o.ssh, "ssh", `SSH agent socket or keys to expose to the build (format: "default|<id>[=<socket>|<key>[,<key>]]")`)
	list(&o.allow, "allow", `Allow extra privileged entitlement (e.g., "network.host", "security.insecure", "device")`)
	f.Var(&o.hosts, "add-host", `Add a custom host-to-IP mapping (format: "host:ip")`)
	f.StringVar(&o.network, "network", "default", `Set the networking mode for the "RUN" instructions during build`)

	f.VarP(&o.memory, "memory", "m", "Memory limit of each RUN")
	f.Var(&o.memorySwap, "memory-swap", "Swap limit equal to memory plus swap: -1 to enable unlimited swap")
	f.Var(&o.cpus, "cpus", "Number of CPUs of each RUN")
	f.Int64VarP(&o.cpuShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	f.Int64Var(&o.cpuPeriod, "cpu-period", 0, "Limit the CPU CFS (Completely Fair Scheduler) period")
	f.Int64Var(&o.cpuQuota, "cpu-quota", 0, "Limit the CPU CFS (Completely Fair Scheduler) quota")
	f.StringVar(&o.cpusetCpus, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	f.StringVar(&o.cpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	list(&o.resources, "resource", `Resource limits for build containers (format: "memory=2g", "cpu-quota=50000")`)
	f.StringVar(&o.cgroupParent, "cgroup-parent", "", `Set the parent cgroup for the "RUN" instructions during build`)
	f.Var(&o.shmSize, "shm-size", "Shared memory size for build containers")
	f.Var(o.ulimits, "ulimit", "Ulimit options")

	f.StringArrayVarP(&o.outputs, "output", "o", nil, `Output destination (format: "type=local,dest=path")`)
	f.BoolVar(&o.load, "load", false, `Shorthand for "--output=type=docker"`)
	f.BoolVar(&o.push, "push", false, `Shorthand for "--output=type=registry"`)
	list(&o.attests, "attest", `Attestation parameters (format: "type=sbom,generator=image")`)
	f.StringVar(&o.sbom, "sbom", "", `Shorthand for "--attest=type=sbom"`)
	f.StringVar(&o.provenance, "provenance", "", `Shorthand for "--attest=type=provenance"`)
	f.BoolVar(&o.squash, "squash", false, "Squash newly built layers into a single new layer")
	f.StringVar(&o.iidFile, "iidfile", "", "Write the image ID to a file")
	f.StringVar(&o.metadataFile, "metadata-file", "", "Write build result metadata to a file")

	f.StringVar(&o.progress, "progress", "auto", `Set type of progress output ("auto", "none", "plain", "quiet", "rawjson", "tty"). Use plain to show container output`)
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Suppress the build output and print image ID on success")
	f.StringVar(&o.callText, "call", "build", `Set method for evaluating build ("check", "outline", "targets")`)
	f.BoolVar(&o.check_, "check", false, `Shorthand for "--call=check"`)

	// What the classic builder had and what has no meaning here. They are
	// accepted where the wish is fulfilled anyway, and refused where not.
	f.BoolVar(&o.rm, "rm", true, "Remove intermediate containers after a successful build")
	f.BoolVar(&o.forceRm, "force-rm", false, "Always remove intermediate containers")
	f.BoolVar(&o.compress, "compress", false, "Compress the build context using gzip")
	f.StringVar(&o.isolation, "isolation", "", "Container isolation technology")
	f.StringArrayVar(&o.security, "security-opt", nil, "Security options")
	f.StringVar(&o.builder, "builder", "", "Override the configured builder instance")
	for _, name := range []string{"rm", "force-rm", "compress", "isolation", "security-opt", "builder"} {
		f.Lookup(name).Hidden = true
	}
	complete(cmd, "progress", "auto", "none", "plain", "quiet", "rawjson", "tty")
	complete(cmd, "call", "check", "outline", "targets")
	complete(cmd, "network", "default", "host", "none")
}

func complete(cmd *cobra.Command, flag string, words ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // a flag that was not added: a mistake in this file
	}
}

func defaultPlatform() []string {
	if v := os.Getenv("DOCKER_DEFAULT_PLATFORM"); v != "" {
		return []string{v}
	}
	return nil
}

// check refuses what can be seen to be wrong without looking at the context.
func (o *options) check(sh *shell.Shell, flags flagSet) error {
	for _, t := range o.tags {
		if _, err := reference.ParseNormalizedNamed(t); err != nil {
			return fmt.Errorf("invalid tag %q: %w", t, err)
		}
	}
	switch {
	case o.push && o.load:
		return errors.New("push and load may not be set together at the moment")
	case o.quiet && flags.Changed("progress") && o.progress != string(progressui.QuietMode):
		return fmt.Errorf("progress=%s and quiet cannot be used together", o.progress)
	case o.noCache && len(o.noCacheFilter) > 0:
		return errors.New("--no-cache and --no-cache-filter cannot currently be used together")
	case len(o.security) > 0:
		return errors.New(`--security-opt is not served by BuildKit; use "RUN --security=insecure" with "--allow security.insecure"`)
	case o.isolation != "" && o.isolation != "default":
		return fmt.Errorf("--isolation %s is for Windows; on Linux there is only \"default\"", o.isolation)
	case o.builder != "" && o.builder != "default":
		return fmt.Errorf("no builder %q found: the engine has one, \"default\"; other engines are reached by -H or --context", o.builder)
	case !o.rm:
		return errors.New("--rm=false: no intermediate containers exist that could be kept; the cache keeps each step's result")
	case o.cpus != 0 && (o.cpuQuota != 0 || o.cpuPeriod != 0):
		return errors.New("conflicting options: CPU limit by --cpus and by --cpu-period or --cpu-quota")
	}
	if o.compress {
		fmt.Fprintln(sh.Err, "WARNING: --compress has no effect: only the files that changed travel to the engine")
	}
	for _, p := range o.platformList() {
		if _, err := platforms.Parse(p); err != nil {
			return fmt.Errorf("invalid platform %q: %w", p, err)
		}
	}
	c, err := parseCall(o.callText)
	if err != nil {
		return err
	}
	if o.check_ {
		if flags.Changed("call") && c.name != "lint" {
			return fmt.Errorf("--check and --call=%s cannot be used together", o.callText)
		}
		c = call{name: "lint", format: c.format}
	}
	o.call = c
	return nil
}

func (o *options) platformList() []string {
	var out []string
	for _, v := range o.platforms {
		for p := range strings.SplitSeq(v, ",") {
			switch p = strings.TrimSpace(p); p {
			case "":
			case "local":
				out = append(out, platforms.DefaultString())
			default:
				out = append(out, p)
			}
		}
	}
	return out
}

// mode is what the display is asked for.
func (o *options) mode() progressui.DisplayMode {
	if o.quiet {
		return progressui.QuietMode
	}
	mode := o.progress
	if v := os.Getenv("BUILDKIT_PROGRESS"); v != "" && mode == "auto" {
		mode = v
	}
	if mode == "none" {
		return progressui.QuietMode
	}
	return progressui.DisplayMode(mode)
}

// attributes tells the Dockerfile frontend what to do.
func (o *options) attributes(sh *shell.Shell, opt *client.SolveOpt) error {
	a := opt.FrontendAttrs
	if err := o.arguments(sh, opt); err != nil {
		return err
	}
	for _, l := range o.labels {
		k, v, _ := strings.Cut(l, "=")
		if k == "" {
			return fmt.Errorf("invalid label %q: it has no name", l)
		}
		a["label:"+k] = v
	}
	a["image-resolve-mode"] = "local"
	if o.pull {
		a["image-resolve-mode"] = "pull"
	}
	if o.target != "" {
		a["target"] = o.target
	}
	if len(o.noCacheFilter) > 0 {
		a["no-cache"] = strings.Join(o.noCacheFilter, ",")
	}
	if o.noCache {
		a["no-cache"] = ""
	}
	if p := o.platformList(); len(p) > 0 {
		a["platform"] = strings.Join(p, ",")
	}
	opt.AllowedEntitlements = append(opt.AllowedEntitlements, o.allow...)
	switch o.network {
	case "", "default":
	case "host":
		a["force-network-mode"] = "host"
		opt.AllowedEntitlements = append(opt.AllowedEntitlements, "network.host")
	default:
		a["force-network-mode"] = o.network // none, or a network of the engine's
	}
	hosts, err := extraHosts(o.hosts.GetSlice())
	if err != nil {
		return err
	}
	if hosts != "" {
		a["add-hosts"] = hosts
	}
	return o.limits(a)
}

// arguments sets the build arguments, those that the user's configuration
// gives for proxies among them.
func (o *options) arguments(sh *shell.Shell, opt *client.SolveOpt) error {
	a := opt.FrontendAttrs
	var set []string
	for _, arg := range o.buildArgs {
		k, v, ok := strings.Cut(arg, "=")
		if k == "" {
			return fmt.Errorf("invalid build argument %q: it has no name", arg)
		}
		if !ok {
			if v, ok = os.LookupEnv(k); !ok {
				continue // as docker: one that is not set here keeps the Dockerfile's default
			}
		}
		a["build-arg:"+k] = v
		set = append(set, k+"="+v, strings.ToUpper(k)+"="+v, strings.ToLower(k)+"="+v)
	}
	const epoch = "SOURCE_DATE_EPOCH" // of reproducible builds, for which it is exported
	if v := os.Getenv(epoch); v != "" && a["build-arg:"+epoch] == "" {
		a["build-arg:"+epoch] = v
	}
	if syntax := strings.TrimSpace(a["build-arg:BUILDKIT_SYNTAX"]); syntax != "" {
		opt.Frontend = "gateway.v0"
		a["source"], _, _ = strings.Cut(syntax, " ")
		a["cmdline"] = syntax
	}
	if v, err := strconv.ParseBool(a["build-arg:BUILDKIT_MULTI_PLATFORM"]); err == nil && v {
		a["multi-platform"] = "true"
	}
	host := ""
	if ep, err := sh.Endpoint(); err == nil {
		host = ep.Host
	}
	for _, e := range sh.Config().ProxyEnv(host, set) {
		k, v, _ := strings.Cut(e, "=")
		a["build-arg:"+k] = v
	}
	return nil
}

// extraHosts turns host:ip into the form of the frontend.
func extraHosts(in []string) (string, error) {
	var out []string
	for _, h := range in {
		host, ip, ok := strings.Cut(h, "=")
		if !ok {
			host, ip, ok = strings.Cut(h, ":")
		}
		if !ok || host == "" || ip == "" {
			return "", fmt.Errorf("invalid host %s", h)
		}
		out = append(out, host+"="+strings.Trim(ip, "[]"))
	}
	return joinCSV(out)
}

// limits are those of each RUN.
func (o *options) limits(a map[string]string) error {
	number := func(key string, n int64) {
		if n != 0 {
			a[key] = strconv.FormatInt(n, 10)
		}
	}
	number("memory", o.memory.Value())
	number("memswap", o.memorySwap.Value())
	number("cpushares", o.cpuShares)
	number("cpuperiod", o.cpuPeriod)
	number("cpuquota", o.cpuQuota)
	number("shm-size", o.shmSize.Value())
	if n := o.cpus.Value(); n != 0 {
		const period = 100_000 // microseconds
		number("cpuperiod", period)
		number("cpuquota", n*period/1e9)
	}
	for key, v := range map[string]string{"cpusetcpus": o.cpusetCpus, "cpusetmems": o.cpusetMems, "cgroup-parent": o.cgroupParent} {
		if v != "" {
			a[key] = v
		}
	}
	for _, r := range o.resources {
		if err := resource(a, r); err != nil {
			return err
		}
	}
	var limits []string
	for _, u := range o.ulimits.GetList() {
		limits = append(limits, u.String())
	}
	slices.Sort(limits)
	text, err := joinCSV(limits)
	if err == nil && text != "" {
		a["ulimit"] = text
	}
	return err
}

// resource is one --resource name=value.
func resource(a map[string]string, text string) error {
	fields, err := splitCSV(text)
	if err != nil {
		return fmt.Errorf("invalid resource %q: %w", text, err)
	}
	for _, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return fmt.Errorf("invalid resource %q: want name=value", f)
		}
		switch k {
		case "memory", "memory-swap":
			var n opts.MemSwapBytes
			if err := n.Set(v); err != nil {
				return fmt.Errorf("invalid resource %q: %w", f, err)
			}
			a[map[string]string{"memory": "memory", "memory-swap": "memswap"}[k]] = strconv.FormatInt(n.Value(), 10)
		case "cpu-shares", "cpu-period", "cpu-quota", "cpuset-cpus", "cpuset-mems":
			a[strings.ReplaceAll(k, "-", "")] = v
		default:
			return fmt.Errorf("invalid resource %q: want memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus or cpuset-mems", f)
		}
	}
	return nil
}

// splitCSV is the form of all flags that hold several key=value.
func splitCSV(text string) ([]string, error) {
	r := csv.NewReader(strings.NewReader(text))
	r.LazyQuotes = true
	return r.Read()
}

func joinCSV(fields []string) (string, error) {
	if len(fields) == 0 {
		return "", nil
	}
	var b strings.Builder
	w := csv.NewWriter(&b)
	err := w.Write(fields)
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n"), err
}

// pairs parses key=value,... into a map with keys in lower case.
func pairs(what, text string) (map[string]string, error) {
	fields, err := splitCSV(text)
	if err != nil {
		return nil, fmt.Errorf("invalid %s %q: %w", what, text, err)
	}
	out := map[string]string{}
	for _, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return nil, fmt.Errorf("invalid %s %q: field %q must be a key=value pair", what, text, f)
		}
		out[strings.ToLower(strings.TrimSpace(k))] = v
	}
	return out, nil
}

var _ flagSet = (*pflag.FlagSet)(nil)
