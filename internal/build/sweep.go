package build

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/id"
)

// sweep removes what the builds of a killed engine left: mounts and temporary
// files, and steps that did not die with it. With nothing left it costs two
// looks into a directory.
func (b *Builder) sweep() error {
	return errors.Join(b.sweepSteps(), sweepTemporary(b.tmp()))
}

// sweepSteps ends what a step still runs. A step dies with the engine by a
// signal of the kernel's; a program that takes another identity as it starts
// is spared that.
func (b *Builder) sweepSteps() error {
	entries, err := os.ReadDir(b.steps())
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	var failed []error
	for _, e := range entries {
		dir := filepath.Join(b.steps(), e.Name())
		if !id.Valid(e.Name()) {
			continue
		}
		group, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err == nil {
			if g, err := b.cfg.Cgroups.Open(strings.TrimSpace(string(group))); err == nil {
				failed = append(failed, g.Kill(unix.SIGKILL), g.Remove())
			}
		}
		failed = append(failed, os.RemoveAll(dir))
	}
	return errors.Join(failed...)
}

// sweepTemporary unmounts what is mounted below dir and empties it.
func sweepTemporary(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		if m.Mountpoint == dir {
			continue
		}
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil {
			return &os.PathError{Op: "unmount", Path: m.Mountpoint, Err: err}
		}
	}
	var failed []error
	for _, e := range entries {
		failed = append(failed, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(failed...)
}
