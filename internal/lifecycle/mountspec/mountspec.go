// Package mountspec owns the reading of what users ask to be mounted: -v,
// --mount and the tmpfs options, checked in dockerd's order and words. It
// looks at the host only to see whether the source of a bind exists, and makes nothing.
package mountspec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/idmap"
)

// Spec is one mount as it was asked for. What stands for a volume or an image
// has no Source yet.
type Spec struct {
	container.Mount
	Image   string            // reference, of a mount of an image
	Options map[string]string // driver options, of a volume
	Labels  map[string]string // of a volume that has to be made
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// Bind reads one -v of the form [source:]destination[:mode]. driver is
// --volume-driver.
func Bind(text, driver string) (Spec, error) {
	bad := invalid("invalid volume specification: '%s'", text)
	parts := strings.Split(text, ":")
	if parts[0] == "" || len(parts) > 3 {
		return Spec{}, bad
	}
	r := mount.Mount{Target: parts[0]}
	mode := ""
	switch {
	case len(parts) == 1:
	case len(parts) == 2 && validMode(parts[1]):
		return Spec{}, bad
	default:
		r.Source, r.Target = parts[0], parts[1]
	}
	if len(parts) == 3 {
		mode = parts[2]
	}
	if !validMode(mode) {
		return Spec{}, invalid("invalid mode: %s", mode)
	}
	var s Spec
	r.Type = mount.TypeVolume
	if filepath.IsAbs(r.Source) {
		r.Type = mount.TypeBind
		r.BindOptions = &mount.BindOptions{CreateMountpoint: true}
	} else {
		r.VolumeOptions = &mount.VolumeOptions{}
		if driver != "" {
			r.VolumeOptions.DriverConfig = &mount.Driver{Name: driver}
		}
	}
	for _, o := range strings.Split(mode, ",") {
		switch {
		case o == "ro" || o == "readonly":
			r.ReadOnly = true
		case o == "nocopy" && r.Type == mount.TypeVolume:
			r.VolumeOptions.NoCopy = true
		case o == "nocopy":
			return Spec{}, invalid("invalid volume specification: '%s': invalid mount config for type \"bind\": field VolumeOptions must not be specified", text)
		case kindOf(o) == "owners":
			if err := s.owners(o); err != nil {
				return Spec{}, errdefs.ErrInvalidArgument.WithMessage(bad.Error() + ": " + err.Error())
			}
		case kinds[o] == "propagation" && r.Type == mount.TypeBind:
			r.BindOptions.Propagation = mount.Propagation(o)
		case kinds[o] == "propagation":
			return Spec{}, invalid("invalid volume specification: '%s': invalid mount config for type \"volume\": field BindOptions must not be specified", text)
		}
	}
	owners := s.IDMap
	s, err := Mount(&r)
	if err != nil {
		return Spec{}, errdefs.ErrInvalidArgument.WithMessage(bad.Error() + ": " + err.Error())
	}
	s.Mode, s.FromSpec, s.IDMap = mode, false, owners
	return s, nil
}

// kinds are the options of -v and what they are about.
var kinds = map[string]string{
	"ro": "access", "rw": "access", "readonly": "access", "z": "label", "Z": "label", "nocopy": "copy",
	"private": "propagation", "rprivate": "propagation", "slave": "propagation", "rslave": "propagation", "shared": "propagation", "rshared": "propagation",
	"consistent": "consistency", "cached": "consistency", "delegated": "consistency", "default": "consistency",
}

// kindOf says what an option is about. "idmap", with or without ranges, is
// ours.
func kindOf(o string) string {
	if o == "idmap" || strings.HasPrefix(o, "idmap=") {
		return "owners"
	}
	return kinds[o]
}

// Owners takes an idmap that was asked for beside the mount; "" is by the
// container's user.
func (s *Spec) Owners(text string) error {
	if s.Type != mount.TypeBind && s.Type != mount.TypeVolume {
		return invalid("invalid mount config for type %q: idmap is for bind and volume mounts", s.Type)
	}
	if text == "" {
		text = "auto"
	}
	return s.owners("idmap=" + text)
}

func (s *Spec) owners(o string) error {
	_, text, _ := strings.Cut(o, "=")
	if text == "" {
		text = "auto"
	}
	if text != "auto" {
		if _, err := idmap.ParseMount(text); err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
	}
	s.IDMap = text
	return nil
}

// validMode reports whether every option is known and no two are about the
// same.
func validMode(mode string) bool {
	if mode == "" {
		return true
	}
	seen := map[string]bool{}
	for _, o := range strings.Split(mode, ",") {
		k := kindOf(o)
		if k == "" || seen[k] {
			return false
		}
		seen[k] = true
	}
	return true
}

// VolumesFrom reads one --volumes-from of the form container[:mode].
func VolumesFrom(text string) (container string, readOnly bool, err error) {
	if text == "" {
		return "", false, invalid("volumes-from specification cannot be an empty string")
	}
	container, mode, _ := strings.Cut(text, ":")
	options := strings.Split(mode, ",")
	if !validMode(mode) || slices.ContainsFunc(options, func(o string) bool { return kinds[o] == "propagation" || kinds[o] == "copy" || kindOf(o) == "owners" }) {
		return "", false, invalid("invalid mode: %s", mode)
	}
	return container, slices.Contains(options, "ro"), nil
}

// Mount reads one --mount as the API carries it.
func Mount(r *mount.Mount) (Spec, error) {
	s := Spec{}
	s.Type, s.FromSpec = r.Type, true
	if err := s.read(r); err != nil {
		return Spec{}, invalid("invalid mount config for type %q: %v", r.Type, err)
	}
	s.Destination, s.RW = filepath.Clean(r.Target), !r.ReadOnly && r.Type != mount.TypeImage
	return s, nil
}

func (s *Spec) read(r *mount.Mount) error {
	if err := exclusive(r); err != nil {
		return err
	}
	switch {
	case r.Target == "":
		return errors.New("field Target must not be empty")
	case filepath.Clean(r.Target) == "/":
		return errors.New("invalid specification: destination can't be '/'")
	case !filepath.IsAbs(r.Target):
		return fmt.Errorf("invalid mount path: '%s' mount path must be absolute", r.Target)
	}
	switch r.Type {
	case mount.TypeBind:
		return s.bind(r)
	case mount.TypeVolume:
		return s.volume(r)
	case mount.TypeTmpfs:
		return s.tmpfs(r)
	case mount.TypeImage:
		if r.Source == "" {
			return errors.New("field Source must not be empty")
		}
		s.Image = r.Source
		if o := r.ImageOptions; o != nil {
			s.Subpath = o.Subpath
		}
		return checkSubpath(s.Subpath)
	}
	return errors.New("mount type unknown")
}

// exclusive refuses options of another type than the mount's.
func exclusive(r *mount.Mount) error {
	for _, o := range []struct {
		given bool
		of    mount.Type
		name  string
	}{
		{r.BindOptions != nil, mount.TypeBind, "BindOptions"}, {r.VolumeOptions != nil, mount.TypeVolume, "VolumeOptions"},
		{r.ImageOptions != nil, mount.TypeImage, "ImageOptions"}, {r.TmpfsOptions != nil, mount.TypeTmpfs, "TmpfsOptions"},
		{r.ClusterOptions != nil, mount.TypeCluster, "ClusterOptions"},
	} {
		if o.given && r.Type != o.of {
			return fmt.Errorf("field %s must not be specified", o.name)
		}
	}
	return nil
}

func (s *Spec) bind(r *mount.Mount) error {
	o := r.BindOptions
	if o == nil {
		o = &mount.BindOptions{}
	}
	switch {
	case r.Source == "":
		return errors.New("field Source must not be empty")
	case o.Propagation != "" && !slices.Contains(mount.Propagations, o.Propagation):
		return fmt.Errorf("invalid propagation mode: %s", o.Propagation)
	case !filepath.IsAbs(r.Source):
		return fmt.Errorf("invalid mount path: '%s' mount path must be absolute", r.Source)
	}
	if _, err := os.Stat(r.Source); errors.Is(err, fs.ErrNotExist) && !o.CreateMountpoint {
		return fmt.Errorf("bind source path does not exist: %s", r.Source)
	}
	s.Source, s.CreateSource, s.Propagation = filepath.Clean(r.Source), o.CreateMountpoint, o.Propagation
	if s.Propagation == "" {
		s.Propagation, s.DefaultPropagation = mount.PropagationRPrivate, true
	}
	s.NonRecursive, s.ReadOnlyNonRecursive, s.ReadOnlyForceRecursive = o.NonRecursive, o.ReadOnlyNonRecursive, o.ReadOnlyForceRecursive
	return nil
}

func (s *Spec) volume(r *mount.Mount) error {
	s.Name, s.Anonymous = r.Source, r.Source == ""
	o := r.VolumeOptions
	if o == nil {
		return nil
	}
	s.NoCopy, s.Labels, s.Subpath = o.NoCopy, o.Labels, o.Subpath
	if o.DriverConfig != nil {
		s.Driver, s.Options = o.DriverConfig.Name, o.DriverConfig.Options
	}
	if s.Subpath != "" && s.Anonymous {
		return errors.New("must not set Subpath when using anonymous volumes")
	}
	return checkSubpath(s.Subpath)
}

func checkSubpath(sub string) error {
	if sub != "" && !filepath.IsLocal(sub) {
		return errors.New("subpath must be a relative path within the volume")
	}
	return nil
}

func (s *Spec) tmpfs(r *mount.Mount) error {
	if r.Source != "" {
		return errors.New("field Source must not be specified")
	}
	o := r.TmpfsOptions
	if o == nil {
		return nil
	}
	var opts []string
	if o.SizeBytes != 0 {
		opts = append(opts, fmt.Sprintf("size=%d", o.SizeBytes))
	}
	if o.Mode != 0 {
		opts = append(opts, fmt.Sprintf("mode=%o", o.Mode))
	}
	for _, kv := range o.Options {
		switch {
		case len(kv) < 1 || len(kv) > 2:
			return errors.New("invalid option array length")
		case kv[0] != "exec" && kv[0] != "noexec":
			return errors.New("invalid option: " + kv[0])
		}
		opts = append(opts, strings.Join(kv, "="))
	}
	s.TmpfsOptions = strings.Join(opts, ",")
	return nil
}
