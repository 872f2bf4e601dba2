package spec

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultShm is docker's size of /dev/shm.
const defaultShm = 64 << 20

func (b *builder) defaultMounts() []specs.Mount {
	shm := b.in.HostConfig.ShmSize
	if shm == 0 {
		shm = defaultShm
	}
	sys := specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}}
	if b.userns() && !b.private(specs.NetworkNamespace) {
		// A user namespace may only mount sysfs for a network namespace of its own.
		sys = specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "ro"}}
	}
	shmMount := specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(shm, 10)}}
	mqueue := specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}}
	switch n := b.in.Namespaces[specs.IPCNamespace]; {
	case b.in.HostConfig.IpcMode.IsHost():
		shmMount = specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/dev/shm", Options: []string{"rbind", "rprivate", "nosuid", "noexec", "nodev"}}
		mqueue = specs.Mount{Destination: "/dev/mqueue", Type: "bind", Source: "/dev/mqueue", Options: []string{"rbind", "nosuid", "noexec", "nodev"}}
	case n.Kind == Path:
		// The other container's own; the compiler takes it out of its mount namespace.
		shmMount = specs.Mount{Destination: "/dev/shm", Type: "bind", Source: sharedShm(n.Path), Options: []string{"bind", "rprivate", "nosuid", "noexec", "nodev"}}
	}
	shmMounts := []specs.Mount{mqueue, shmMount}
	switch {
	case b.in.HostConfig.IpcMode.IsNone():
		shmMounts = shmMounts[:1]
	case b.in.HostConfig.IpcMode.IsHost() && !exists(mqueue.Source):
		// A host that does not use message queues has them nowhere mounted.
		shmMounts = shmMounts[1:]
	}
	return append([]specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		sys,
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
	}, shmMounts...)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// sharedShm names /dev/shm in the root of the process whose ipc namespace
// file is given.
func sharedShm(ipc string) string {
	return strings.TrimSuffix(ipc, "/ns/ipc") + "/root/dev/shm"
}

func (b *builder) mounts() error {
	user, err := b.userMounts()
	if err != nil {
		return err
	}
	taken := map[string]bool{}
	for _, m := range user {
		taken[m.Destination] = true
	}
	var list []specs.Mount
	for _, m := range b.defaultMounts() {
		if taken[m.Destination] || taken["/dev"] && strings.HasPrefix(m.Destination, "/dev/") {
			continue
		}
		b.adjust(&m)
		list = append(list, m)
	}
	list = append(list, user...)
	if b.withInit() {
		list = append(list, specs.Mount{Destination: InitTarget, Type: "bind", Source: b.in.InitPath, Options: []string{"bind", "ro"}})
	}
	b.spec.Mounts = list
	return nil
}

// adjust applies --privileged and --read-only to a default mount.
func (b *builder) adjust(m *specs.Mount) {
	writable := func() {
		m.Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
	}
	privileged := b.in.HostConfig.Privileged
	switch m.Destination {
	case "/sys":
		if privileged {
			writable()
		}
	case "/sys/fs/cgroup":
		// A user namespace cannot make the mount read-only afterwards, as in docker.
		rw := privileged || b.userns()
		if b.writableCgroups != nil {
			rw = *b.writableCgroups
		}
		if rw {
			writable()
		}
	}
}

// userMounts gives the files of /etc and the user's mounts, parents first.
func (b *builder) userMounts() ([]specs.Mount, error) {
	var mounts []Mount
	readonly := b.in.HostConfig.ReadonlyRootfs
	files := b.in.Files
	for _, f := range []struct{ source, target string }{
		{files.ResolvConf, "/etc/resolv.conf"}, {files.Hostname, "/etc/hostname"}, {files.Hosts, "/etc/hosts"},
	} {
		if f.source != "" && !slices.ContainsFunc(b.in.Mounts, func(m Mount) bool { return path.Clean(m.Destination) == f.target }) {
			mounts = append(mounts, Mount{Source: f.source, Destination: f.target, Type: "bind", ReadOnly: readonly})
		}
	}
	mounts = append(mounts, b.in.Mounts...)
	for target, opts := range b.in.HostConfig.Tmpfs {
		if slices.ContainsFunc(b.in.Mounts, func(m Mount) bool { return m.Destination == target }) {
			continue
		}
		mounts = append(mounts, Mount{Destination: target, Type: "tmpfs", Options: strings.FieldsFunc(opts, func(r rune) bool { return r == ',' })})
	}
	slices.SortStableFunc(mounts, func(a, c Mount) int {
		if d := depth(a.Destination) - depth(c.Destination); d != 0 {
			return d
		}
		return strings.Compare(a.Destination, c.Destination)
	})
	var list []specs.Mount
	for i := range mounts {
		m, err := b.mount(&mounts[i])
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

func depth(p string) int { return strings.Count(path.Clean(p), "/") }

func (b *builder) mount(m *Mount) (specs.Mount, error) {
	target := path.Clean(m.Destination)
	switch {
	case !path.IsAbs(target):
		return specs.Mount{}, invalid("invalid mount path: '%s' mount path must be absolute", m.Destination)
	case target == "/":
		return specs.Mount{}, invalid("invalid specification: destination can't be '/'")
	}
	if m.Type == "tmpfs" {
		options, err := tmpfsOptions(m)
		return specs.Mount{Destination: target, Type: "tmpfs", Source: "tmpfs", Options: options}, err
	}
	options, err := b.bindOptions(m)
	out := specs.Mount{Destination: target, Type: "bind", Source: m.Source, Options: options}
	if m.Mapped && b.userns() {
		out.UIDMappings, out.GIDMappings = b.in.UIDMaps, b.in.GIDMaps
	}
	return out, err
}

// tmpfsFlags are the options of --tmpfs besides key=value; true for those that
// switch one of docker's defaults off.
var tmpfsFlags = map[string]string{
	"ro": "rw", "rw": "ro", "suid": "nosuid", "nosuid": "suid", "dev": "nodev", "nodev": "dev", "exec": "noexec",
	"noexec": "exec", "sync": "async", "async": "sync", "dirsync": "", "remount": "", "mand": "nomand", "nomand": "mand",
	"atime": "noatime", "noatime": "atime", "diratime": "nodiratime", "nodiratime": "diratime", "bind": "", "rbind": "",
	"unbindable": "", "runbindable": "", "private": "", "rprivate": "", "shared": "", "rshared": "", "slave": "", "rslave": "",
	"relatime": "norelatime", "norelatime": "relatime", "strictatime": "nostrictatime", "nostrictatime": "strictatime",
}

// tmpfsKeys take a value.
var tmpfsKeys = map[string]bool{"mode": true, "uid": true, "gid": true, "size": true, "nr_inodes": true, "nr_blocks": true, "mpol": true, "huge": true}

func tmpfsOptions(m *Mount) ([]string, error) {
	options := []string{"noexec", "nosuid", "nodev", "rprivate"}
	if m.ReadOnly {
		options = append(options, "ro")
	}
	for _, o := range m.Options {
		key, _, isKey := strings.Cut(o, "=")
		opposite, isFlag := tmpfsFlags[o]
		switch {
		case isKey && tmpfsKeys[key]:
			options = slices.DeleteFunc(options, func(x string) bool { return strings.HasPrefix(x, key+"=") })
		case isFlag:
			options = slices.DeleteFunc(options, func(x string) bool { return x == opposite || x == o })
		default:
			return nil, invalid("invalid tmpfs option [%q]", o)
		}
		options = append(options, o)
	}
	return options, nil
}

func (b *builder) bindOptions(m *Mount) ([]string, error) {
	options := []string{"rbind"}
	if m.NonRecursive {
		options[0] = "bind"
	}
	if m.ReadOnly {
		if m.ReadOnlyNonRecursive {
			options = append(options, "ro")
		} else {
			options = append(options, "rro")
		}
	}
	spread := m.Propagation
	if spread == "" {
		spread = "rprivate"
	}
	l := b.spec.Linux
	switch spread {
	case "private", "rprivate":
	case "shared", "rshared":
		if err := ensure(m.Source, "a shared mount", "shared:"); err != nil {
			return nil, err
		}
		l.RootfsPropagation = "shared"
	case "slave", "rslave":
		err := ensure(m.Source, "a shared or slave mount", "shared:", "master:")
		if err != nil && !m.DefaultPropagation {
			return nil, err
		}
		if err != nil {
			spread = "rprivate"
		} else if l.RootfsPropagation == "" {
			l.RootfsPropagation = "rslave"
		}
	default:
		return nil, invalid("invalid propagation mode: %s", spread)
	}
	return append(options, spread), nil
}

// ensure checks the propagation of the mount that source lies on.
func ensure(source, what string, optional ...string) error {
	real, err := filepath.EvalSymlinks(source)
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(real))
	if err != nil {
		return err
	}
	if len(mounts) == 0 {
		return errors.New("Can't find mount point of " + source)
	}
	best := mounts[0]
	for _, m := range mounts[1:] {
		if len(m.Mountpoint) >= len(best.Mountpoint) {
			best = m
		}
	}
	for f := range strings.FieldsSeq(best.Optional) {
		for _, o := range optional {
			if strings.HasPrefix(f, o) {
				return nil
			}
		}
	}
	return invalid("path %s is mounted on %s but it is not %s", source, best.Mountpoint, what)
}
