// Package foreign owns containers whose process another OCI runtime makes:
// runc, crun and whatever has their command line. The keeper runs
// `RUNTIME create` with the container's streams, the process becomes its child
// when that has ended, and from then on it is supervised like any other:
// signals go through its pidfd and its exit code comes from the kernel.
// `RUNTIME start` lets it run, `exec --detach` makes further processes and
// `delete` clears away. No program of the runtime stays.
//
// Below <exec-root>/runtimes:
//
//	state/NAME/              the runtime's own --root
//	bundles/ID/config.json   the OCI specification
//	bundles/ID/rootfs/       the root, mounted while the container runs
//	bundles/ID/mounts/       what the container mounts out of other mount namespaces
//	bundles/ID/log.json      what the runtime complains about
//	bundles/ID/EXEC.*        of one exec, removed when it was started
package foreign

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/runtime/identity"
	"github.com/wherry-engine/wherry/internal/runtime/initproto"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
)

// Program is a runtime as configured.
type Program struct {
	Path string
	Args []string
}

// Set is the runtimes of one engine.
type Set struct {
	Dir      string // <exec-root>/runtimes
	Systemd  bool   // the cgroup driver
	Programs map[string]Program
}

// Find gives a runtime by its name. docker's own name for its default one
// means a runc that is installed, configured or not.
func (s *Set) Find(name string) (*Runtime, bool) {
	p, ok := s.Programs[name]
	if !ok && (name == "runc" || name == "io.containerd.runc.v2") {
		name = "runc"
		if p, ok = s.Programs[name]; !ok {
			p.Path, ok = "runc", installed("runc")
		}
	}
	if !ok {
		return nil, false
	}
	return &Runtime{set: s, name: name, program: p}, true
}

func installed(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// Runtime is one of a Set.
type Runtime struct {
	set     *Set
	name    string
	program Program
}

func (r *Runtime) bundle(id string) string { return filepath.Join(r.set.Dir, "bundles", id) }

// global are the arguments in front of every command.
func (r *Runtime) global(id string) []string {
	args := append(append([]string{}, r.program.Args...), "--root", filepath.Join(r.set.Dir, "state", r.name),
		"--log", filepath.Join(r.bundle(id), "log.json"), "--log-format", "json")
	if r.set.Systemd {
		args = append(args, "--systemd-cgroup")
	}
	return args
}

func (r *Runtime) path() (string, error) {
	path, err := exec.LookPath(r.program.Path)
	if err != nil {
		return "", fmt.Errorf("runtime %s: %w", r.name, err)
	}
	return filepath.Abs(path)
}

// Root is the root of a container: an overlay, or a directory.
type Root struct {
	Lower       []string
	Upper, Work string
	Options     []string
	Dir         string
}

// User says who a process is, in docker's words; it is looked up in the root.
type User struct {
	Name   string
	Groups []string
}

// Create makes the bundle of a container and the plan to start it. Delete
// takes both back, also after an error.
func (r *Runtime) Create(id string, s *specs.Spec, root Root, user User, hold bool) (*sandbox.Plan, error) {
	path, err := r.path()
	if err != nil {
		return nil, err
	}
	// What a crash may have left of the run before.
	if err := r.Delete(context.Background(), id); err != nil {
		return nil, err
	}
	dir := r.bundle(id)
	rootfs := filepath.Join(dir, "rootfs")
	for _, d := range []string{filepath.Join(r.set.Dir, "state", r.name), rootfs} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	o := mount.Overlay{Base: root.Dir}
	if root.Dir == "" {
		o = mount.PackOverlay(root.Lower, root.Upper, root.Work, root.Options)
	}
	if err := sandbox.MountRoot(&o, rootfs); err != nil {
		return nil, fmt.Errorf("mount root: %w", err)
	}
	s.Root.Path = rootfs
	wildcards(s)
	if err := bring(s.Mounts, filepath.Join(dir, "mounts")); err != nil {
		return nil, err
	}
	if err := resolve(rootfs, s.Process, user); err != nil {
		return nil, err
	}
	if err := write(filepath.Join(dir, "config.json"), s); err != nil {
		return nil, err
	}
	c := &sandbox.Command{Path: path, Dir: dir, PIDFile: filepath.Join(dir, "pid"), Start: append(r.global(id), "start", id)}
	c.Create = append(r.global(id), "create", "--bundle", dir, "--pid-file", c.PIDFile)
	if s.Process.Terminal {
		c.Console = "console.sock"
		c.Create = append(c.Create, "--console-socket", c.Console)
	}
	c.Create = append(c.Create, id)
	return plan(c, s.Process, hold), nil
}

// Exec makes the plan for a further process of a running container. done
// takes back what it needed, once it was started or not.
func (r *Runtime) Exec(id, name string, p *specs.Process, pid int, user User) (out *sandbox.Plan, done func(), err error) {
	path, err := r.path()
	if err != nil {
		return nil, nil, err
	}
	dir := r.bundle(id)
	if err := resolve(fmt.Sprintf("/proc/%d/root", pid), p, user); err != nil {
		return nil, nil, err
	}
	base := filepath.Join(dir, name)
	done = func() {
		_ = os.Remove(base + ".json")
		_ = os.Remove(base + ".pid")
	}
	if err := write(base+".json", p); err != nil {
		done()
		return nil, nil, err
	}
	c := &sandbox.Command{Path: path, Dir: dir, PIDFile: base + ".pid"}
	c.Create = append(r.global(id), "exec", "--detach", "--process", base+".json", "--pid-file", c.PIDFile)
	if p.Terminal {
		c.Console = name + ".sock"
		c.Create = append(c.Create, "--console-socket", c.Console)
	}
	c.Create = append(c.Create, id)
	return plan(c, p, false), done, nil
}

// wildcards leaves the numbers out of device rules for all devices, which crun
// only knows in that form.
func wildcards(s *specs.Spec) {
	if s.Linux == nil || s.Linux.Resources == nil {
		return
	}
	for i := range s.Linux.Resources.Devices {
		d := &s.Linux.Resources.Devices[i]
		if d.Major != nil && *d.Major == -1 {
			d.Major = nil
		}
		if d.Minor != nil && *d.Minor == -1 {
			d.Minor = nil
		}
	}
}

func plan(c *sandbox.Command, p *specs.Process, hold bool) *sandbox.Plan {
	out := &sandbox.Plan{Runtime: c, Terminal: p.Terminal, Hold: hold}
	if p.ConsoleSize != nil {
		out.Rows, out.Cols = uint16(p.ConsoleSize.Height), uint16(p.ConsoleSize.Width)
	}
	return out
}

func write(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

// resolve turns names into the numbers that runtimes take.
func resolve(root string, p *specs.Process, user User) error {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", root, err)
	}
	defer unix.Close(fd)
	id, f := identity.Of(fd, &initproto.Process{Lookup: true, User: user.Name, Groups: user.Groups})
	if f != nil {
		return &sandbox.StartError{Step: f.Step, Message: f.Message, Errno: unix.Errno(f.Errno)}
	}
	p.User.UID, p.User.GID, p.User.AdditionalGids, p.User.Username = id.UID, id.GID, id.Groups, ""
	p.Env = identity.WithHome(p.Env, id.Home)
	return nil
}

// Delete clears away a container that has ended, or kills it. What is not
// there is no error; no Runtime has nothing to clear.
func (r *Runtime) Delete(ctx context.Context, id string) error {
	if r == nil {
		return nil
	}
	dir := r.bundle(id)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var failed error
	if path, err := r.path(); err == nil {
		out, err := exec.CommandContext(ctx, path, append(r.global(id), "delete", "--force", id)...).CombinedOutput()
		if err != nil {
			failed = fmt.Errorf("%s delete: %w: %s", r.name, err, bytes.TrimSpace(out))
		}
	}
	mounts, err := filepath.Glob(filepath.Join(dir, "mounts", "*"))
	if err != nil {
		return errors.Join(failed, err)
	}
	for _, m := range append(mounts, filepath.Join(dir, "rootfs")) {
		if err := unix.Unmount(m, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			// Nothing below may be deleted while something is mounted.
			return errors.Join(failed, fmt.Errorf("unmount %s: %w", m, err))
		}
	}
	s := new(specs.Spec)
	if b, err := os.ReadFile(filepath.Join(dir, "config.json")); err == nil && json.Unmarshal(b, s) == nil && s.Linux != nil && !r.set.Systemd {
		// In hybrid set-ups runtimes make a group in a hierarchy that the engine
		// does not use; the parent goes with the last of them.
		_ = unix.Rmdir(filepath.Join("/sys/fs/cgroup/unified", filepath.Dir(s.Linux.CgroupsPath)))
	}
	return errors.Join(failed, os.RemoveAll(dir))
}

// Failure replaces the error of a start by what the runtime has logged, in
// dockerd's words. Without a Runtime, and for other errors, it is err.
func (r *Runtime) Failure(id, verb string, err error) error {
	var f *sandbox.StartError
	if r == nil || !errors.As(err, &f) || f.Step != "runtime" {
		return err
	}
	why := lastError(filepath.Join(r.bundle(id), "log.json"))
	if why == "" {
		return err
	}
	if verb == "exec" {
		return &sandbox.StartError{Step: "runtime", Message: strings.TrimPrefix(why, "exec failed: ")} // the rest is said by who asked
	}
	return &sandbox.StartError{Step: "runtime", Message: "OCI runtime " + verb + " failed: " + strings.TrimSpace(why) + ": unknown"}
}

// lastError finds the last error of a log of JSON lines.
func lastError(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	last := ""
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var line struct{ Level, Msg string }
		if json.Unmarshal(s.Bytes(), &line) == nil && (line.Level == "error" || line.Level == "fatal") {
			last = line.Msg
		}
	}
	return last
}
