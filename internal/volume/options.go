package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
)

// checkOptions refuses what the local driver cannot mount, in dockerd's words.
func checkOptions(options map[string]string) error {
	for _, o := range slices.Sorted(maps.Keys(options)) {
		switch o {
		case "type", "o", "device":
		case "size", "uid", "gid", "mode":
			if _, err := rootOf(options); err != nil {
				return err
			}
			if options["type"] != "" || options["device"] != "" {
				return fmt.Errorf("option %q is for volumes that are directories of the engine; give it to the file system with o=%s=%s", o, o, options[o])
			}
		default:
			return fmt.Errorf("invalid option: %q", o)
		}
	}
	if isCIFS(options["type"]) && options["device"] != "" {
		u, err := url.Parse(options["device"])
		if err != nil {
			return fmt.Errorf("error parsing mount device url: %w", err)
		}
		if u.Port() != "" {
			return errors.New("port not allowed in CIFS device URL, include 'port' in 'o='")
		}
	}
	for _, needs := range []struct{ option, other string }{{"device", "type"}, {"type", "device"}, {"o", "device"}, {"o", "type"}} {
		_, have := options[needs.option]
		if _, ok := options[needs.other]; have && !ok {
			return fmt.Errorf("missing required option: %q", needs.other)
		}
	}
	return nil
}

// root is how the directory of a volume is made.
type root struct {
	uid, gid int   // -1 is as it comes
	mode     int64 // -1 is as it comes
	size     int64 // bytes that it may hold, 0 for no limit
}

func rootOf(options map[string]string) (r root, err error) {
	r = root{uid: -1, gid: -1, mode: -1}
	for name, to := range map[string]*int{"uid": &r.uid, "gid": &r.gid} {
		if text, ok := options[name]; ok {
			n, err := strconv.ParseUint(text, 10, 31)
			if err != nil {
				return r, fmt.Errorf("invalid option %s=%s: expected a number", name, text)
			}
			*to = int(n)
		}
	}
	if text, ok := options["mode"]; ok {
		n, err := strconv.ParseUint(text, 8, 12)
		if err != nil {
			return r, fmt.Errorf("invalid option mode=%s: expected an octal number up to 7777", text)
		}
		r.mode = int64(n)
	}
	if text, ok := options["size"]; ok {
		if r.size, err = units.RAMInBytes(text); err != nil {
			return r, err
		}
		if r.size < 0 {
			return r, fmt.Errorf("invalid option size=%s: it is negative", text)
		}
	}
	return r, nil
}

// apply gives a directory the owner and mode that were asked for. The engine's
// file mode mask is not the user's business: what was made without a mode gets
// the usual one.
func (r *root) apply(dir string, made bool) error {
	if err := os.Lchown(dir, r.uid, r.gid); err != nil {
		return err
	}
	switch {
	case r.mode >= 0:
		return unix.Chmod(dir, uint32(r.mode)) // os.Chmod reads other bits
	case made:
		return unix.Chmod(dir, 0o755)
	}
	return nil
}

// tree mounts the volume's file system detached. The caller closes it.
func (v *Volume) tree(ctx context.Context) (int, error) {
	device, kind, text := v.Options["device"], v.Options["type"], v.Options["o"]
	if device == "" {
		return -1, errors.New("failed to mount local volume: missing device in volume options")
	}
	list := strings.Split(text, ",")
	var err error
	if onServer(kind) {
		if device, list, err = fromServer(ctx, kind, device, list); err != nil {
			return -1, err
		}
	}
	o := mount.ParseOptions(list)
	var fd int
	if o.Bind {
		fd, err = bind(device, &o)
	} else {
		if o.Set&unix.MOUNT_ATTR_RDONLY != 0 {
			// The file system has to know too: it may be on a device that refuses writes.
			o.Data = append(o.Data, "ro")
		}
		fd, err = mount.New(kind, device, o.Data, o.Set)
	}
	if errors.Is(err, unix.ENODEV) && !o.Bind {
		err = fmt.Errorf("this kernel has no file system %q (modprobe %s): %w", kind, kind, err)
	}
	if err != nil {
		return -1, fmt.Errorf("failed to mount local volume: mount %s:%s: %w", device, v.Path(), withoutPassword(explained(kind, err), list))
	}
	return fd, nil
}

func bind(device string, o *mount.Options) (int, error) {
	if len(o.Data) > 0 {
		return -1, fmt.Errorf("option %q has no meaning for a bind mount", o.Data[0])
	}
	fd, err := mount.Clone(unix.AT_FDCWD, device, o.Recursive)
	if err != nil {
		return -1, err
	}
	// What is mounted inside belongs to its containers.
	err = mount.Change(fd, 0, 0, unix.MS_PRIVATE, true)
	if err == nil && (o.Set != 0 || o.Clear != 0) {
		err = mount.Change(fd, o.Set, o.Clear, 0, false)
	}
	if err == nil && o.SetSub != 0 {
		err = mount.Change(fd, o.SetSub, 0, 0, true)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
