package lifecycle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/id"
)

// resolveMounts turns what the user and the image ask for into mounts, making
// the volumes that do not exist. Later kinds win over earlier ones at the same
// destination, as in dockerd: --volumes-from, then -v, then --mount and --tmpfs,
// then the image's VOLUMEs.
func (mk *maker) resolveMounts(c *container.Container) error {
	byDest := map[string]container.Mount{}
	explicit := map[string]bool{}
	claim := func(dest string) error {
		if explicit[dest] {
			return invalid("Duplicate mount point: %s", dest)
		}
		explicit[dest] = true
		return nil
	}
	for _, spec := range c.HostConfig.VolumesFrom {
		if err := mk.volumesFrom(spec, byDest); err != nil {
			return err
		}
	}
	for _, spec := range c.HostConfig.Binds {
		m, err := mk.parseBind(spec)
		if err != nil {
			return err
		}
		if err := claim(m.Destination); err != nil {
			return err
		}
		byDest[m.Destination] = m
	}
	for i := range c.HostConfig.Mounts {
		m, err := mk.parseMount(&c.HostConfig.Mounts[i])
		if err != nil {
			return err
		}
		if err := claim(m.Destination); err != nil {
			return err
		}
		byDest[m.Destination] = m
	}
	for dest, options := range c.HostConfig.Tmpfs {
		if !filepath.IsAbs(dest) {
			return invalid("invalid tmpfs path %q: must be absolute", dest)
		}
		dest = filepath.Clean(dest)
		if err := claim(dest); err != nil {
			return err
		}
		m := container.Mount{TmpfsOptions: options}
		m.Type, m.Destination, m.RW = mount.TypeTmpfs, dest, !slices.Contains(strings.Split(options, ","), "ro")
		byDest[dest] = m
	}
	for dest := range c.Config.Volumes {
		if !filepath.IsAbs(dest) || filepath.Clean(dest) == "/" {
			return invalid("invalid volume specification: '%s'", dest)
		}
		dest = filepath.Clean(dest)
		if _, ok := byDest[dest]; ok {
			continue
		}
		m, err := mk.volumeMount("", "", nil)
		if err != nil {
			return err
		}
		m.Destination, m.RW = dest, true
		byDest[dest] = m
	}
	for _, m := range byDest {
		c.Mounts = append(c.Mounts, m)
		if m.Type == mount.TypeVolume {
			mk.volumes.Use(m.Name, c.ID)
		}
	}
	// Parents before children, so that /a is mounted before /a/b.
	slices.SortFunc(c.Mounts, func(a, b container.Mount) int {
		if d := strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/"); d != 0 {
			return d
		}
		return strings.Compare(a.Destination, b.Destination)
	})
	return nil
}

// volumeMount makes or finds a volume; the caller fills in the destination.
func (mk *maker) volumeMount(name, driver string, labels map[string]string) (container.Mount, error) {
	v, _, err := mk.volumes.Create(name, driver, labels)
	if err != nil {
		return container.Mount{}, err
	}
	var m container.Mount
	m.Type, m.Name, m.Source, m.Driver, m.Anonymous = mount.TypeVolume, v.Name, v.Path(), v.Driver, v.Anonymous
	return m, nil
}

// parseBind reads one -v of the form [source:]destination[:mode].
func (mk *maker) parseBind(spec string) (container.Mount, error) {
	bad := func(format string, args ...any) (container.Mount, error) {
		return container.Mount{}, invalid("invalid volume specification: '%s'%s", spec, fmt.Sprintf(format, args...))
	}
	var source, dest, mode string
	switch parts := strings.Split(spec, ":"); {
	case slices.Contains(parts, "") || len(parts) > 3:
		return bad("")
	case len(parts) == 1:
		dest = parts[0]
	case len(parts) == 2 && (filepath.IsAbs(parts[1]) || !validMode(parts[1])):
		source, dest = parts[0], parts[1]
	case len(parts) == 2:
		dest, mode = parts[0], parts[1]
	default:
		source, dest, mode = parts[0], parts[1], parts[2]
	}
	if !filepath.IsAbs(dest) {
		return bad(": invalid mount path: '%s' mount path must be absolute", dest)
	}
	if dest = filepath.Clean(dest); dest == "/" {
		return bad(": invalid specification: destination can't be '/'")
	}
	if !validMode(mode) {
		return bad(": invalid mode: %s", mode)
	}
	var m container.Mount
	switch {
	case source == "":
		var err error
		if m, err = mk.volumeMount("", "", nil); err != nil {
			return m, err
		}
	case filepath.IsAbs(source):
		m.Type, m.Source, m.CreateSource = mount.TypeBind, filepath.Clean(source), true
		m.Propagation, m.DefaultPropagation = mount.PropagationRPrivate, true
	default:
		if !id.ValidName(source) {
			return m, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("create %s: %q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", source, source))
		}
		var err error
		if m, err = mk.volumeMount(source, "", nil); err != nil {
			return m, err
		}
	}
	m.Destination, m.Mode, m.RW = dest, mode, true
	for _, o := range strings.Split(mode, ",") {
		switch o {
		case "ro", "readonly":
			m.RW = false
		case "private", "rprivate", "slave", "rslave", "shared", "rshared":
			if m.Type != mount.TypeBind {
				return bad(": invalid mode: %s", mode)
			}
			m.Propagation, m.DefaultPropagation = mount.Propagation(o), false
		}
	}
	return m, nil
}

// validMode reports whether every option of a -v mode is known and none is
// given twice or contradicts another.
func validMode(mode string) bool {
	if mode == "" {
		return true
	}
	groups := map[string]int{}
	kind := map[string]string{
		"ro": "rw", "rw": "rw", "z": "label", "Z": "label", "nocopy": "copy",
		"private": "prop", "rprivate": "prop", "slave": "prop", "rslave": "prop", "shared": "prop", "rshared": "prop",
		"consistent": "cons", "cached": "cons", "delegated": "cons", "default": "cons",
	}
	for _, o := range strings.Split(mode, ",") {
		g := kind[o]
		if g == "" || groups[g] > 0 {
			return false
		}
		groups[g]++
	}
	return true
}

// parseMount reads one --mount as the API carries it.
func (mk *maker) parseMount(r *mount.Mount) (container.Mount, error) {
	bad := func(format string, args ...any) (container.Mount, error) {
		return container.Mount{}, invalid("invalid mount config for type %q: %s", r.Type, fmt.Sprintf(format, args...))
	}
	switch {
	case r.Target == "":
		return bad("field Target must not be empty")
	case !filepath.IsAbs(r.Target):
		return bad("invalid mount path: '%s' mount path must be absolute", r.Target)
	case filepath.Clean(r.Target) == "/":
		return bad("invalid specification: destination can't be '/'")
	}
	m := container.Mount{FromSpec: true}
	switch r.Type {
	case mount.TypeBind:
		switch {
		case r.Source == "":
			return bad("field Source must not be empty")
		case !filepath.IsAbs(r.Source):
			return bad("invalid mount path: '%s' mount path must be absolute", r.Source)
		case r.VolumeOptions != nil:
			return bad("field VolumeOptions must not be specified")
		}
		o := r.BindOptions
		if o == nil {
			o = &mount.BindOptions{}
		}
		if o.Propagation != "" && !slices.Contains(mount.Propagations, o.Propagation) {
			return bad("invalid propagation mode: %s", o.Propagation)
		}
		if _, err := os.Stat(r.Source); errors.Is(err, fs.ErrNotExist) && !o.CreateMountpoint {
			return bad("bind source path does not exist: %s", r.Source)
		}
		m.Source, m.CreateSource = filepath.Clean(r.Source), o.CreateMountpoint
		m.Propagation = o.Propagation
		if m.Propagation == "" {
			m.Propagation, m.DefaultPropagation = mount.PropagationRPrivate, true
		}
		m.NonRecursive, m.ReadOnlyNonRecursive, m.ReadOnlyForceRecursive = o.NonRecursive, o.ReadOnlyNonRecursive, o.ReadOnlyForceRecursive
	case mount.TypeVolume:
		var driver string
		var labels map[string]string
		if o := r.VolumeOptions; o != nil {
			labels = o.Labels
			if o.DriverConfig != nil {
				driver = o.DriverConfig.Name
				if len(o.DriverConfig.Options) > 0 {
					return m, errdefs.ErrNotImplemented.WithMessage("options of the local volume driver are not served by this version of wherryd")
				}
			}
			if o.Subpath != "" {
				return m, errdefs.ErrNotImplemented.WithMessage("volume-subpath is not served by this version of wherryd")
			}
		}
		vm, err := mk.volumeMount(r.Source, driver, labels)
		if err != nil {
			return m, err
		}
		m = vm
		m.FromSpec = true
	case mount.TypeTmpfs:
		if r.Source != "" {
			return bad("field Source must not be specified")
		}
		var opts []string
		if o := r.TmpfsOptions; o != nil {
			if o.SizeBytes != 0 {
				opts = append(opts, fmt.Sprintf("size=%d", o.SizeBytes))
			}
			if o.Mode != 0 {
				opts = append(opts, fmt.Sprintf("mode=%o", o.Mode))
			}
			for _, kv := range o.Options {
				opts = append(opts, strings.Join(kv, "="))
			}
		}
		m.TmpfsOptions = strings.Join(opts, ",")
	case mount.TypeImage, mount.TypeCluster, mount.TypeNamedPipe:
		return m, errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("mounts of type %q are not served by this version of wherryd", r.Type))
	default:
		return bad("mount type unknown")
	}
	m.Type, m.Destination, m.RW = r.Type, filepath.Clean(r.Target), !r.ReadOnly
	return m, nil
}

// volumesFrom takes over the mounts of another container, name[:ro|rw].
func (mk *maker) volumesFrom(spec string, into map[string]container.Mount) error {
	ref, mode, _ := strings.Cut(spec, ":")
	if ref == "" {
		return invalid("invalid volumes-from specification: empty")
	}
	if !validMode(mode) {
		return invalid("invalid mode for volumes-from: %s", mode)
	}
	other, err := mk.store.Get(ref)
	if err != nil {
		return err
	}
	for _, m := range other.Snapshot().Mounts {
		if m.Type == mount.TypeTmpfs {
			continue
		}
		if slices.Contains(strings.Split(mode, ","), "ro") {
			m.RW = false
		}
		m.Anonymous = false // it belongs to the other container
		into[m.Destination] = m
	}
	return nil
}

// mountPoints is the list as inspect shows it.
func mountPoints(ms []container.Mount) []apicontainer.MountPoint {
	out := make([]apicontainer.MountPoint, 0, len(ms))
	for _, m := range ms {
		out = append(out, m.MountPoint)
	}
	return out
}

// makeSources makes the host directories of -v that do not exist.
func makeSources(ms []container.Mount) error {
	for _, m := range ms {
		if m.Type != mount.TypeBind || !m.CreateSource {
			continue
		}
		if _, err := os.Lstat(m.Source); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.MkdirAll(m.Source, 0o755); err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("error while creating mount source path '%s': %v", m.Source, err))
		}
	}
	return nil
}
