// Package spec owns the translation of what a user asked for, in docker's
// words, to an OCI runtime spec. It decides all policy of a process: which
// capabilities, mounts, devices, limits and paths it gets.
package spec

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// How a namespace is got.
const (
	New   Kind = iota // made fresh
	Host              // the engine's own
	Path              // the one at NS.Path
	Extra             // the passed descriptor NS.Index; NS.Path may name it for other runtimes
)

// Kind is one of New, Host, Path, Extra.
type Kind int

// NS says how one namespace is got.
type NS struct {
	Kind  Kind
	Path  string
	Index int
}

// Rootfs is what becomes the root directory: an overlay of Lower (topmost
// first), Upper and Work with Options, or, without Lower, the directory Dir.
type Rootfs struct {
	Lower       []string
	Upper, Work string
	Options     []string // further overlay options: volatile, index=off...
	Dir         string
}

// Mount is one resolved mount of the user's.
type Mount struct {
	Source, Destination string
	Type                string // bind or tmpfs
	ReadOnly            bool
	Propagation         string // as docker spells it; "" is rprivate
	NonRecursive        bool   // bind only the directory itself
	// ReadOnlyNonRecursive leaves what is mounted below a read-only bind writable.
	ReadOnlyNonRecursive bool
	// DefaultPropagation says that Propagation is not the user's wish; it falls
	// back to private where the source cannot have it.
	DefaultPropagation bool
	Options            []string // tmpfs: size=, mode=...
	// Mapped says that in a user namespace the source's files appear with the
	// owners they have on disk.
	Mapped bool
}

// Files are host paths bound over the files of the same meaning in /etc; ""
// leaves the image's.
type Files struct{ ResolvConf, Hosts, Hostname string }

// Input is everything Build looks at, apart from the kernel's own tables.
type Input struct {
	ID                   string
	Config               *container.Config
	HostConfig           *container.HostConfig
	Hostname, Domainname string
	LinkEnv              []string // environment of legacy links
	Rootfs               Rootfs
	Mounts               []Mount
	Files                Files
	Namespaces           map[specs.LinuxNamespaceType]NS
	CgroupPath           string
	Cgroup2              bool
	Seccomp              *specs.LinuxSeccomp // chosen and resolved, nil = unconfined
	Init                 bool                // put InitPath in front of the command
	InitPath             string              // host path of wherry-init
	AppArmor             string              // profile when the user named none and the kernel has AppArmor
	DefaultUlimits       map[string]*container.Ulimit
	UIDMaps, GIDMaps     []specs.LinuxIDMapping // of a new user namespace, else empty
}

// version is the oldest OCI version that has all we use: older runtimes refuse
// a newer number, whatever is in the spec.
const version = "1.1.0"

// Build gives the spec and warnings the user should see. Errors that the user
// can mend have an errdefs kind and docker's words. The result is complete:
// any OCI runtime accepts it once Root.Path is mounted.
func Build(in *Input) (*specs.Spec, []string, error) {
	b := builder{in: in, spec: skeleton(in)}
	steps := []func() error{
		b.security, b.process, b.capabilities, b.rlimits, b.namespaces, b.mounts, b.devices, b.resources, b.sysctls, b.paths,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, nil, err
		}
	}
	return b.spec, b.warnings, nil
}

type builder struct {
	in              *Input
	spec            *specs.Spec
	warnings        []string
	writableCgroups *bool
}

func (b *builder) warn(format string, args ...any) {
	b.warnings = append(b.warnings, fmt.Sprintf(format, args...))
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

func skeleton(in *Input) *specs.Spec {
	root := in.Rootfs.Dir
	if root == "" {
		// Where a foreign runtime finds the overlay, mounted beside its upper directory.
		root = filepath.Join(filepath.Dir(in.Rootfs.Upper), "merged")
	}
	hostname := in.Hostname
	if in.HostConfig.UTSMode.IsHost() {
		hostname = ""
	}
	return &specs.Spec{
		Version:     version,
		Process:     &specs.Process{},
		Root:        &specs.Root{Path: root, Readonly: in.HostConfig.ReadonlyRootfs},
		Hostname:    hostname,
		Annotations: maps.Clone(in.HostConfig.Annotations),
		Linux: &specs.Linux{
			CgroupsPath: in.CgroupPath,
			Seccomp:     in.Seccomp,
			Sysctl:      map[string]string{},
			Resources:   &specs.LinuxResources{},
		},
	}
}

// namespaceOrder keeps specs stable for people and goldens.
var namespaceOrder = []specs.LinuxNamespaceType{
	specs.UserNamespace, specs.MountNamespace, specs.NetworkNamespace, specs.UTSNamespace, specs.PIDNamespace,
	specs.IPCNamespace, specs.CgroupNamespace, specs.TimeNamespace,
}

func (b *builder) namespaces() error {
	h, l := b.in.HostConfig, b.spec.Linux
	switch {
	case !h.IpcMode.Valid():
		return invalid("invalid IPC mode: %v", h.IpcMode)
	case !h.PidMode.Valid():
		return invalid("invalid PID mode: %v", h.PidMode)
	case !h.UTSMode.Valid():
		return invalid("invalid UTS mode: %v", h.UTSMode)
	case !h.CgroupnsMode.Valid():
		return invalid("invalid cgroup namespace mode: %v", h.CgroupnsMode)
	}
	if len(b.in.UIDMaps) > 0 {
		if len(b.in.GIDMaps) == 0 {
			return errors.New("user namespace without group mappings")
		}
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: b.in.Namespaces[specs.UserNamespace].Path})
		l.UIDMappings, l.GIDMappings = b.in.UIDMaps, b.in.GIDMaps
	}
	for _, t := range namespaceOrder {
		n, ok := b.in.Namespaces[t]
		switch {
		case !ok && t == specs.MountNamespace:
			// Never shared: everything a container mounts would be the host's.
		case !ok || n.Kind == Host:
			continue
		}
		if t == specs.UserNamespace && len(b.in.UIDMaps) > 0 {
			continue
		}
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: t, Path: n.Path})
	}
	return nil
}

// private tells whether the namespace is the container's own.
func (b *builder) private(t specs.LinuxNamespaceType) bool {
	n, ok := b.in.Namespaces[t]
	return ok && (n.Kind == New || n.Kind == Extra)
}

func (b *builder) userns() bool { return len(b.in.UIDMaps) > 0 }

func sysctlExists(name string) bool {
	_, err := os.Stat("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	return err == nil
}

func (b *builder) sysctls() error {
	s := b.spec.Linux.Sysctl
	if b.in.Domainname != "" && b.private(specs.UTSNamespace) {
		s["kernel.domainname"] = b.in.Domainname
	}
	// Docker's own, only in a network namespace of the container's own.
	if b.private(specs.NetworkNamespace) {
		const ping, ports = "net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start"
		if !b.userns() && sysctlExists(ping) {
			s[ping] = "0 2147483647"
		}
		if sysctlExists(ports) {
			s[ports] = "0"
		}
	}
	for name, value := range b.in.HostConfig.Sysctls {
		if err := b.checkSysctl(name); err != nil {
			return err
		}
		s[name] = value
	}
	return nil
}

// namespacedKernel are the sysctls below kernel. that an IPC namespace has of its own.
var namespacedKernel = map[string]bool{
	"kernel.msgmax": true, "kernel.msgmnb": true, "kernel.msgmni": true, "kernel.sem": true, "kernel.shmall": true,
	"kernel.shmmax": true, "kernel.shmmni": true, "kernel.shm_rmid_forced": true, "kernel.msg_next_id": true,
	"kernel.sem_next_id": true, "kernel.shm_next_id": true,
}

// checkSysctl refuses what would change the host. The name becomes a path, so
// it may not leave the tree either.
func (b *builder) checkSysctl(name string) error {
	if strings.Contains(name, "..") || strings.HasPrefix(name, "/") {
		return invalid("sysctl %q is not allowed", name)
	}
	dotted := name
	if strings.IndexByte(name, '/') >= 0 && (strings.IndexByte(name, '.') < 0 || strings.IndexByte(name, '/') < strings.IndexByte(name, '.')) {
		dotted = strings.ReplaceAll(name, "/", ".")
	}
	switch {
	case namespacedKernel[dotted], strings.HasPrefix(dotted, "fs.mqueue."):
		if b.private(specs.IPCNamespace) {
			return nil
		}
		return invalid("sysctl %q is not allowed in the hosts ipc namespace", name)
	case strings.HasPrefix(dotted, "net."):
		if b.private(specs.NetworkNamespace) {
			return nil
		}
		return invalid("sysctl %q not allowed in host network namespace", name)
	case dotted == "kernel.domainname" || dotted == "kernel.hostname":
		if b.private(specs.UTSNamespace) {
			return nil
		}
		return invalid("sysctl %q is not allowed in the hosts UTS namespace", name)
	}
	return invalid("sysctl %q is not in a separate kernel namespace", name)
}
