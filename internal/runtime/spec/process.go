package spec

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/caps"
)

const (
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// InitTarget is where --init puts the reaper, as docker does.
	InitTarget = "/sbin/docker-init"
)

// command joins entrypoint and arguments.
func command(c *container.Config) []string {
	return append(slices.Clone(c.Entrypoint), c.Cmd...)
}

func (b *builder) process() error {
	c, h, p := b.in.Config, b.in.HostConfig, b.spec.Process
	p.Args = command(c)
	if len(p.Args) == 0 {
		return invalid("no command specified")
	}
	if b.withInit() {
		p.Args = append([]string{InitTarget, "--"}, p.Args...)
	}
	p.Terminal = c.Tty
	if c.Tty && (h.ConsoleSize[0] != 0 || h.ConsoleSize[1] != 0) {
		p.ConsoleSize = &specs.Box{Height: h.ConsoleSize[0], Width: h.ConsoleSize[1]}
	}
	p.Cwd = c.WorkingDir
	if p.Cwd == "" {
		p.Cwd = "/"
	}
	if p.Cwd[0] != '/' {
		return invalid("the working directory '%s' is invalid, it needs to be an absolute path", p.Cwd)
	}
	p.Env = environment(c, b.in.Hostname, b.in.LinkEnv)
	p.User = userOf(c.User, h.Umask)
	score := h.OomScoreAdj
	if own, ok := ownOOMScore(); ok && score < own && !mayRaise() {
		if score != 0 {
			b.warn("oom_score_adj %d is below the engine's own and CAP_SYS_RESOURCE is missing: using %d", score, own)
		}
		score = own
	}
	p.OOMScoreAdj = &score
	return nil
}

// withInit: a reaper only makes sense as the first process of the namespace.
func (b *builder) withInit() bool {
	return b.in.Init && b.in.InitPath != "" && b.private(specs.PIDNamespace)
}

// userOf carries docker's user string in Username for whoever can look names
// up in the root; numbers are filled in for runtimes that only take those.
func userOf(s string, umask *uint32) specs.User {
	u := specs.User{Username: s, Umask: umask}
	name, group, _ := strings.Cut(s, ":")
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		u.UID = uint32(n)
	}
	if n, err := strconv.ParseUint(group, 10, 31); err == nil {
		u.GID = uint32(n)
	}
	u.AdditionalGids = []uint32{u.GID}
	return u
}

// environment is docker's: its own defaults, replaced or extended by the
// user's; an entry without "=" removes.
func environment(c *container.Config, hostname string, links []string) []string {
	env := []string{"PATH=" + defaultPath, "HOSTNAME=" + hostname}
	if c.Tty {
		env = append(env, "TERM=xterm")
	}
	return mergeEnv(append(env, links...), c.Env)
}

func mergeEnv(env, overrides []string) []string {
	at := make(map[string]int, len(env))
	for i, e := range env {
		name, _, _ := strings.Cut(e, "=")
		at[name] = i
	}
	for _, e := range overrides {
		name, _, set := strings.Cut(e, "=")
		i, known := at[name]
		switch {
		case !set && known:
			env[i] = ""
		case !set:
		case known:
			env[i] = e
		default:
			at[name] = len(env)
			env = append(env, e)
		}
	}
	return slices.DeleteFunc(env, func(e string) bool { return e == "" })
}

// defaultCapabilities is docker's set.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// bounding is what the engine has, and so what it can give; it does not change.
var bounding = sync.OnceValue(caps.Bounding)

// Capabilities gives the names a container has: privileged means all that the
// engine itself has, else docker's default with add and drop.
func Capabilities(h *container.HostConfig) ([]string, error) {
	all := bounding()
	if h.Privileged {
		return all.Names(), nil
	}
	add, addAll, err := capNames("CapAdd", h.CapAdd)
	if err != nil {
		return nil, err
	}
	drop, dropAll, err := capNames("CapDrop", h.CapDrop)
	if err != nil {
		return nil, err
	}
	set, _ := caps.Of(defaultCapabilities)
	switch {
	case addAll:
		set = all &^ drop
	case dropAll:
		set = add
	default:
		set = set&^drop | add
	}
	if addAll && dropAll {
		set = add
	}
	return set.Names(), nil
}

// capNames takes names with or without CAP_ in any case, and ALL.
func capNames(option string, list []string) (set caps.Set, all bool, err error) {
	for _, name := range list {
		up := strings.ToUpper(name)
		if up == "ALL" {
			all = true
			continue
		}
		full := "CAP_" + strings.TrimPrefix(up, "CAP_")
		n := caps.Number(full)
		if n < 0 {
			return 0, false, invalid("invalid %s: unknown capability: %q", option, full)
		}
		set |= 1 << n
	}
	return set, all, nil
}

func (b *builder) capabilities() error {
	names, err := Capabilities(b.in.HostConfig)
	if err != nil {
		return err
	}
	// Never inheritable: a set-user-id or file-capability program would pick them up.
	b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: names, Permitted: names, Effective: names}
	return nil
}

// rlimitNames maps docker's ulimit names.
var rlimitNames = map[string]int{
	"core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE,
	"locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE,
	"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

func (b *builder) rlimits() error {
	limits := slices.Clone(b.in.HostConfig.Ulimits)
	given := map[string]bool{}
	for _, u := range limits {
		given[u.Name] = true
	}
	var defaults []string
	for name := range b.in.DefaultUlimits {
		defaults = append(defaults, name)
	}
	slices.Sort(defaults)
	for _, name := range defaults {
		if !given[name] {
			limits = append(limits, b.in.DefaultUlimits[name])
		}
	}
	for _, u := range limits {
		resource, ok := rlimitNames[u.Name]
		if !ok {
			return invalid("invalid ulimit type: %s", u.Name)
		}
		l := specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)}
		if err := b.clamp(resource, u.Name, &l); err != nil {
			return err
		}
		b.spec.Process.Rlimits = append(b.spec.Process.Rlimits, l)
	}
	return nil
}

// clamp keeps a limit within the engine's own when it may not raise that.
func (b *builder) clamp(resource int, name string, l *specs.POSIXRlimit) error {
	var own unix.Rlimit
	if err := unix.Getrlimit(resource, &own); err != nil {
		return err
	}
	if l.Hard <= own.Max || mayRaise() {
		return nil
	}
	b.warn("ulimit %s=%d is above the engine's own hard limit and CAP_SYS_RESOURCE is missing: using %d", name, int64(l.Hard), int64(own.Max))
	l.Hard = own.Max
	l.Soft = min(l.Soft, own.Max)
	return nil
}

// mayRaise tells whether this process, and so those it starts, has CAP_SYS_RESOURCE.
func mayRaise() bool {
	_, effective, err := caps.Current()
	n := caps.Number("CAP_SYS_RESOURCE")
	return err == nil && effective&(1<<n) != 0
}

func ownOOMScore() (int, bool) {
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	return n, err == nil
}

// BuildExec gives the process of an exec in a container whose spec is main.
func BuildExec(main *specs.Spec, cfg *container.ExecCreateRequest) (*specs.Process, error) {
	if main.Process == nil {
		return nil, errors.New("exec without a main process")
	}
	if len(cfg.Cmd) == 0 {
		return nil, invalid("No exec command specified")
	}
	p := *main.Process
	p.Args = slices.Clone(cfg.Cmd)
	p.Terminal, p.ConsoleSize = cfg.Tty, nil
	if cfg.Tty && cfg.ConsoleSize != nil {
		p.ConsoleSize = &specs.Box{Height: cfg.ConsoleSize[0], Width: cfg.ConsoleSize[1]}
	}
	p.Env = slices.Clone(main.Process.Env)
	if cfg.Tty {
		if !slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "TERM=") }) {
			p.Env = append(p.Env, "TERM=xterm")
		}
	} else if !main.Process.Terminal {
		p.Env = slices.Clone(p.Env)
	}
	p.Env = mergeEnv(p.Env, cfg.Env)
	if cfg.WorkingDir != "" {
		p.Cwd = cfg.WorkingDir
		if p.Cwd[0] != '/' {
			return nil, invalid("OCI runtime exec failed: exec failed: Cwd must be an absolute path")
		}
	}
	if cfg.User != "" {
		p.User = userOf(cfg.User, main.Process.User.Umask)
	}
	if cfg.Privileged {
		all := bounding()
		p.Capabilities = &specs.LinuxCapabilities{Bounding: all.Names(), Permitted: all.Names(), Effective: all.Names()}
	}
	return &p, nil
}
