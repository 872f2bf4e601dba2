package compile

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/linux/ns"
	"github.com/wherry-engine/wherry/internal/runtime/initproto"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
)

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// mount encodes one mount of the spec.
func (b *builder) mount(m *specs.Mount) error {
	if !path.IsAbs(m.Destination) {
		return fmt.Errorf("mount destination %q is not absolute", m.Destination)
	}
	o := mount.ParseOptions(m.Options)
	out := initproto.Mount{
		Kind: initproto.MountNew, Target: path.Clean(m.Destination), Type: m.Type, Source: m.Source,
		Options: o.Data, Attr: o.Set, Clear: o.Clear,
	}
	switch {
	case m.Type == "cgroup" || m.Type == "cgroup2":
		return b.cgroupMount(&out)
	case m.Type == "bind" || o.Bind:
		if err := b.bind(m, &o, &out); err != nil {
			return err
		}
	case m.Type == "proc" || m.Type == "sysfs":
		out.Strict = initproto.TargetStrict
	case m.Type == "tmpfs":
		// Made read-only last: other mounts may need directories in it.
		out.Attr &^= unix.MOUNT_ATTR_RDONLY
	}
	b.place(&out)
	return nil
}

func (b *builder) bind(m *specs.Mount, o *mount.Options, out *initproto.Mount) error {
	if m.Source == "" {
		return fmt.Errorf("bind mount on %q without a source", m.Destination)
	}
	out.Kind, out.Type, out.Options = initproto.MountBind, "bind", nil
	out.Recursive, out.SubAttr = o.Recursive, o.SetSub
	out.Spread, out.SpreadAll = o.Spread, o.SpreadAll
	if out.Spread == 0 {
		out.Spread, out.SpreadAll = unix.MS_PRIVATE, true
	}
	if i, ok := b.o.Trees[out.Target]; ok {
		out.Kind, out.Number = initproto.MountTree, uint32(i)
		return nil
	}
	// The root of another process: taken out of its own mount namespace, where
	// its links cannot lead anywhere else.
	if rest, ok := strings.CutPrefix(m.Source, "/proc/"); ok {
		pid, inside, ok := strings.Cut(rest, "/root/")
		if ok && pid != "" && strings.Trim(pid, "0123456789") == "" {
			out.Kind, out.Source = initproto.MountFrom, "/"+inside
			out.Number = b.open("/proc/" + pid + "/ns/" + "mnt")
			if inside == "dev/shm" {
				out.FSType = unix.TMPFS_MAGIC
			}
		}
	}
	return nil
}

// place adds a mount to those that emit encodes.
func (b *builder) place(m *initproto.Mount) { b.mounts = append(b.mounts, m) }

// emit encodes the mounts. A user namespace is handed what lies on the host:
// its root may not enter every directory that the engine's can.
func (b *builder) emit(mapped map[string]bool) {
	for _, m := range b.mounts {
		if b.userns && m.Kind == initproto.MountBind {
			b.plan.Trees = append(b.plan.Trees, sandbox.Tree{Path: m.Source, Recursive: m.Recursive, Mapped: mapped[m.Target]})
			m.Kind, m.Number = initproto.MountTree, b.afterFiles()+uint32(len(b.plan.Trees)-1)
		}
		b.add(initproto.Op{Code: initproto.CodeMount, Mount: m})
	}
}

// afterFiles is the index of what follows all files, which must be known by then.
func (b *builder) afterFiles() uint32 {
	return uint32(b.o.Extras + len(b.plan.Open) + len(b.plan.CgroupTasks))
}

// cgroupMount shows the container its own group: on v2 a fresh instance in its
// cgroup namespace, on v1 a tmpfs with the group's directory of each controller.
func (b *builder) cgroupMount(m *initproto.Mount) error {
	private := slices.ContainsFunc(b.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
	if b.o.Cgroup2 {
		if private {
			m.Type, m.Options = "cgroup2", nil
		} else {
			// A second instance in the host's namespace would change the options of the first.
			*m = initproto.Mount{Kind: initproto.MountBind, Target: m.Target, Source: "/sys/fs/cgroup", Type: "bind", Attr: m.Attr, Spread: unix.MS_PRIVATE}
		}
		b.place(m)
		return nil
	}
	attr := m.Attr
	b.place(&initproto.Mount{
		Kind: initproto.MountNew, Type: "tmpfs", Source: "tmpfs", Target: m.Target, Options: []string{"mode=755"}, Attr: attr &^ unix.MOUNT_ATTR_RDONLY,
	})
	for _, c := range b.o.Controllers {
		b.place(&initproto.Mount{
			Kind: initproto.MountBind, Type: "bind", Source: c.Dir, Target: m.Target + "/" + c.Name, Attr: attr, Spread: unix.MS_PRIVATE,
		})
	}
	return nil
}

// controllerLinks are the single names of controllers mounted together.
func (b *builder) controllerLinks() []string {
	var pairs []string
	if b.o.Cgroup2 {
		return nil
	}
	for _, m := range b.spec.Mounts {
		if m.Type != "cgroup" {
			continue
		}
		for _, c := range b.o.Controllers {
			names := strings.Split(c.Name, ",")
			for _, n := range names {
				if len(names) > 1 {
					pairs = append(pairs, c.Name, path.Clean(m.Destination)+"/"+n)
				}
			}
		}
	}
	return pairs
}

// sealed lists what becomes read-only after everything was made in it.
func (b *builder) sealed() []string {
	var list []string
	for _, m := range b.spec.Mounts {
		if !slices.Contains(m.Options, "ro") {
			continue
		}
		if m.Type == "tmpfs" || m.Type == "cgroup" && !b.o.Cgroup2 {
			list = append(list, path.Clean(m.Destination))
		}
	}
	return list
}

// defaultDevices are the nodes every container has.
var defaultDevices = []struct {
	path         string
	major, minor uint32
}{
	{"/dev/null", 1, 3}, {"/dev/zero", 1, 5}, {"/dev/full", 1, 7},
	{"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0},
}

// ownDev tells whether /dev is the container's, and not one the user bound.
func (b *builder) ownDev() bool {
	return !slices.ContainsFunc(b.spec.Mounts, func(m specs.Mount) bool {
		return path.Clean(m.Destination) == "/dev" && m.Type == "bind"
	})
}

// bindDevices shows the host's nodes in a user namespace, which cannot make any.
func (b *builder) bindDevices() {
	if !b.userns || !b.ownDev() {
		return
	}
	bind := func(source, target string) {
		if exists(source) {
			b.place(&initproto.Mount{Kind: initproto.MountBind, Type: "bind", Source: source, Target: target, Spread: unix.MS_PRIVATE})
		}
	}
	for _, d := range defaultDevices {
		bind(d.path, d.path)
	}
	for _, d := range b.spec.Linux.Devices {
		bind(hostNode(d), path.Clean(d.Path))
	}
}

// hostNode finds the host's node of a device: under the same name, else by its number.
func hostNode(d specs.LinuxDevice) string {
	var st unix.Stat_t
	if err := unix.Stat(d.Path, &st); err == nil && st.Rdev == unix.Mkdev(uint32(d.Major), uint32(d.Minor)) {
		return d.Path
	}
	kind := "char"
	if d.Type == "b" {
		kind = "block"
	}
	link := fmt.Sprintf("/dev/%s/%d:%d", kind, d.Major, d.Minor)
	if _, err := os.Stat(link); err == nil {
		return link
	}
	return d.Path
}

// devices makes nodes and the usual links.
func (b *builder) devices() {
	if links := b.controllerLinks(); len(links) > 0 {
		b.add(initproto.Op{Code: initproto.CodeLinks, Strings: links})
	}
	if !b.ownDev() {
		return
	}
	if !b.userns {
		taken := map[string]bool{}
		for _, d := range b.spec.Linux.Devices {
			taken[path.Clean(d.Path)] = true
		}
		for _, d := range defaultDevices {
			if !taken[d.path] {
				b.add(initproto.Op{Code: initproto.CodeDevice, Device: &initproto.Device{Path: d.path, Mode: unix.S_IFCHR | 0o666, Dev: unix.Mkdev(d.major, d.minor)}})
			}
		}
		for _, d := range b.spec.Linux.Devices {
			b.add(initproto.Op{Code: initproto.CodeDevice, Device: device(d)})
		}
	}
	links := []string{
		"/proc/self/fd", "/dev/fd", "/proc/self/fd/0", "/dev/stdin", "/proc/self/fd/1", "/dev/stdout",
		"/proc/self/fd/2", "/dev/stderr", "pts/ptmx", "/dev/ptmx",
	}
	if exists("/proc/kcore") {
		links = append(links, "/proc/kcore", "/dev/core")
	}
	b.add(initproto.Op{Code: initproto.CodeLinks, Strings: links})
}

func device(d specs.LinuxDevice) *initproto.Device {
	out := &initproto.Device{Path: path.Clean(d.Path), Mode: 0o666, Dev: unix.Mkdev(uint32(d.Major), uint32(d.Minor))}
	if d.FileMode != nil {
		out.Mode = uint32(d.FileMode.Perm())
	}
	switch d.Type {
	case "b":
		out.Mode |= unix.S_IFBLK
	case "p":
		out.Mode |= unix.S_IFIFO
		out.Dev = 0
	default:
		out.Mode |= unix.S_IFCHR
	}
	if d.UID != nil {
		out.UID = *d.UID
	}
	if d.GID != nil {
		out.GID = *d.GID
	}
	return out
}

// namespaceFile names a namespace of a process.
func namespaceFile(pid int, t specs.LinuxNamespaceType) string { return ns.Path(pid, fileName(t)) }
