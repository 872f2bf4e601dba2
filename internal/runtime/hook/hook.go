// Package hook owns the OCI hooks of the engine's own runtime: programs of the
// host that a device's specification asks to be run for a container before its
// program is. The engine runs them while the container's first process waits,
// with its root complete and nothing of the user's started.
package hook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/linux/ns"
)

// Wanted reports whether there are hooks to run. Those that would have to run
// at other moments are refused.
func Wanted(h *specs.Hooks) (bool, error) {
	if h == nil {
		return false, nil
	}
	for name, list := range map[string][]specs.Hook{"startContainer": h.StartContainer, "poststart": h.Poststart, "poststop": h.Poststop} {
		if len(list) > 0 {
			return false, errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf(
				"hook %s (%s) is not served by the engine's own runtime: run this container with --runtime runc", list[0].Path, name))
		}
	}
	return len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer) > 0, nil //nolint:staticcheck // prestart is still in use
}

// Container is who hooks are run for. PID is its first process, which waits;
// Dir is a directory that Run makes and removes.
type Container struct {
	ID   string
	PID  int
	Dir  string
	Spec *specs.Spec
}

// Run runs the hooks in order and returns the first failure. Hooks of the
// container's side (createContainer) find its root under the path that the
// configuration in the bundle names; what they change there the container
// sees, what they mount there it does not.
func Run(ctx context.Context, c Container) (err error) {
	rootfs := filepath.Join(c.Dir, "rootfs")
	if err := os.MkdirAll(rootfs, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(c.Dir)) }()
	s := *c.Spec
	s.Root = &specs.Root{Path: rootfs, Readonly: c.Spec.Root.Readonly}
	config, err := json.Marshal(&s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "config.json"), config, 0o600); err != nil {
		return err
	}
	state, err := json.Marshal(specs.State{
		Version: specs.Version, ID: c.ID, Status: specs.StateCreating, Pid: c.PID, Bundle: c.Dir, Annotations: s.Annotations,
	})
	if err != nil {
		return err
	}
	for _, stage := range []struct {
		name string
		list []specs.Hook
	}{{"prestart", s.Hooks.Prestart}, {"createRuntime", s.Hooks.CreateRuntime}} { //nolint:staticcheck // prestart is still in use
		if err := each(ctx, stage.name, stage.list, state, c.Dir); err != nil {
			return err
		}
	}
	if len(s.Hooks.CreateContainer) == 0 {
		return nil
	}
	return beside(c.PID, rootfs, func() error { return each(ctx, "createContainer", s.Hooks.CreateContainer, state, rootfs) })
}

// beside calls f on a thread whose mount namespace is the host's and has the
// root of a process at dir. It is gone with the thread and its children.
func beside(pid int, dir string, f func() error) error {
	return ns.Aside(func() error {
		here, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(here)
		there, err := unix.Open(ns.Path(pid, "mnt"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(there)
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Setns(there, unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter mount namespace: %w", err)
		}
		tree, err := mount.Clone(unix.AT_FDCWD, "/", true)
		if err != nil {
			return err
		}
		defer unix.Close(tree)
		if err := unix.Setns(here, unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("leave mount namespace: %w", err)
		}
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := mount.Isolate(unix.MS_SLAVE); err != nil {
			return err
		}
		target, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(target)
		if err := mount.Attach(tree, target); err != nil {
			return err
		}
		return f()
	})
}

func each(ctx context.Context, stage string, list []specs.Hook, state []byte, dir string) error {
	for i, h := range list {
		if err := run(ctx, h, state, dir); err != nil {
			return fmt.Errorf("error running %s hook #%d: %w", stage, i, err)
		}
	}
	return nil
}

func run(ctx context.Context, h specs.Hook, state []byte, dir string) error {
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	var out, errOut bytes.Buffer
	cmd.Env, cmd.Dir, cmd.Stdin = append([]string{}, h.Env...), dir, bytes.NewReader(state)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return fmt.Errorf("%w, stdout: %s, stderr: %s", err, strings.TrimSpace(out.String()), strings.TrimSpace(errOut.String()))
}
