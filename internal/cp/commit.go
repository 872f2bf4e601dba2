package cp

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/image/change"
	kmount "github.com/wherry-engine/wherry/internal/linux/mount"
)

// CommitOptions are those of POST /commit.
type CommitOptions struct {
	Ref             string // the name to give, "" for none
	Author, Comment string
	Changes         []string // Dockerfile instructions
	Config          *apicontainer.Config
	Pause           bool // freeze the container meanwhile
}

// Commit makes an image of the container's image and of what was changed in
// the container since. Files of volumes and other mounts are not part of it.
// The image is durable when its id is returned.
func (f *Files) Commit(ctx context.Context, ref string, o CommitOptions) (digest.Digest, error) {
	c, err := f.store.Get(ref)
	if err != nil {
		return "", err
	}
	r := c.Snapshot()
	switch {
	case r.State.Dead:
		return "", errdefs.ErrConflict.WithMessage(fmt.Sprintf("You cannot commit container %s which is Dead", r.ID))
	case r.State.Removing:
		return "", errdefs.ErrConflict.WithMessage(fmt.Sprintf("You cannot commit container %s which is being removed", r.ID))
	}
	config, err := committed(o.Config, o.Changes, r.Config)
	if err != nil {
		return "", err
	}
	if o.Pause && r.State.Running && !r.State.Paused && !r.State.Restarting {
		switch err := f.pauser.Pause(ctx, r.ID); {
		case err == nil:
			defer f.pauser.Unpause(context.WithoutCancel(ctx), r.ID) //nolint:errcheck // it may have been removed meanwhile
		case c.Snapshot().State.Pid != 0:
			return "", err
		} // else it ended before it could be paused, which is as good
	}
	v, err := f.open(ctx, c, bare)
	if err != nil {
		return "", err
	}
	defer v.close()
	list, err := f.compare(ctx, c, v)
	if err != nil {
		return "", err
	}
	now := time.Now().UTC()
	commit := image.Commit{
		Parent: digest.Digest(r.ImageID), Config: *config, Author: o.Author, Ref: o.Ref,
		History: ocispec.History{Created: &now, CreatedBy: strings.Join(r.Config.Cmd, " "), Author: o.Author, Comment: o.Comment},
		Origin:  image.Origin{Container: r.ID, Config: r.Config},
	}
	if len(list) > 0 {
		pr, pw := io.Pipe()
		defer pr.Close()
		go func() { pw.CloseWithError(v.layer(ctx, list, pw)) }()
		commit.Layer = pr
	}
	id, err := f.images.Commit(ctx, commit)
	if err != nil {
		return "", err
	}
	f.publish(c, events.ActionCommit, map[string]string{"comment": o.Comment, "imageID": id.String(), "imageRef": o.Ref})
	return id, nil
}

// layer writes the changes as an image's layer.
func (v *view) layer(ctx context.Context, list []difference, w io.Writer) error {
	p := newPacker(ctx, w, v.ids)
	for _, one := range list {
		name := strings.TrimPrefix(one.path, "/")
		// A file with the name of a whiteout would remove others from the image.
		if strings.Contains("/"+name, "/.wh.") {
			continue
		}
		if err := v.layerEntry(p, one, name); err != nil {
			return err
		}
	}
	return p.close()
}

func (v *view) layerEntry(p *packer, one difference, name string) error {
	if one.kind == apicontainer.ChangeDelete {
		dir, base := path.Split(name)
		return p.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: dir + ".wh." + base, Mode: 0o600, Format: tar.FormatPAX})
	}
	fd, err := kmount.OpenBelow(v.root, name, unix.O_PATH|unix.O_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil // not paused, it has changed since it was compared
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = p.entry(fd, name)
	return err
}

// committed is the configuration of the new image: what the client sent, with
// the changes carried out, and the container's where that leaves things open.
func committed(from *apicontainer.Config, changes []string, had *apicontainer.Config) (*dockerspec.DockerOCIImageConfig, error) {
	if from == nil {
		from = had
	}
	c := imageConfig(from)
	if err := change.Apply(c, changes); err != nil {
		return nil, err
	}
	if instructs(changes, "ENTRYPOINT") && !instructs(changes, "CMD") {
		c.Cmd = nil // it was meant for the former entrypoint
	}
	merge(c, imageConfig(had))
	return c, nil
}

// instructs reports whether an instruction is among the changes.
func instructs(changes []string, name string) bool {
	for line := range strings.Lines(strings.Join(changes, "\n")) {
		if f := strings.Fields(line); len(f) > 0 && strings.EqualFold(f[0], name) {
			return true
		}
	}
	return false
}

// imageConfig is the part of a container's configuration that an image has.
func imageConfig(c *apicontainer.Config) *dockerspec.DockerOCIImageConfig {
	out := &dockerspec.DockerOCIImageConfig{}
	if c == nil {
		return out
	}
	out.User, out.WorkingDir, out.StopSignal = c.User, c.WorkingDir, c.StopSignal
	out.Env, out.Cmd, out.Entrypoint = clone(c.Env), clone(c.Cmd), clone(c.Entrypoint)
	out.ArgsEscaped = c.ArgsEscaped //nolint:staticcheck // the format has it
	out.OnBuild, out.Shell = clone(c.OnBuild), clone(c.Shell)
	for p := range c.ExposedPorts {
		set(&out.ExposedPorts, p.String(), struct{}{})
	}
	for v := range c.Volumes {
		set(&out.Volumes, v, struct{}{})
	}
	for k, v := range c.Labels {
		set(&out.Labels, k, v)
	}
	if c.Healthcheck != nil {
		h := *c.Healthcheck
		out.Healthcheck = &h
	}
	return out
}

// clone keeps nil and empty apart: an empty entrypoint takes the image's away.
func clone(s []string) []string {
	if s == nil {
		return nil
	}
	return append([]string{}, s...)
}

func set[V any](m *map[string]V, k string, v V) {
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[k] = v
}

// merge fills what c leaves open from had, by docker's rules for an image and
// the container made of it.
func merge(c, had *dockerspec.DockerOCIImageConfig) {
	if c.User == "" {
		c.User = had.User
	}
	for p, v := range had.ExposedPorts {
		set(&c.ExposedPorts, p, v)
	}
	mine := map[string]bool{}
	for _, e := range c.Env {
		k, _, _ := strings.Cut(e, "=")
		mine[k] = true
	}
	for _, e := range had.Env {
		if k, _, _ := strings.Cut(e, "="); !mine[k] {
			c.Env = append(c.Env, e)
		}
	}
	for k, v := range had.Labels {
		if _, ok := c.Labels[k]; !ok {
			set(&c.Labels, k, v)
		}
	}
	if len(c.Entrypoint) == 0 {
		if len(c.Cmd) == 0 {
			c.Cmd, c.ArgsEscaped = had.Cmd, had.ArgsEscaped //nolint:staticcheck // the format has it
		}
		if c.Entrypoint == nil {
			c.Entrypoint = had.Entrypoint
		}
	}
	mergeHealth(c, had.Healthcheck)
	if c.WorkingDir == "" {
		c.WorkingDir = had.WorkingDir
	}
	for v := range had.Volumes {
		set(&c.Volumes, v, struct{}{})
	}
	if c.StopSignal == "" {
		c.StopSignal = had.StopSignal
	}
	if len(c.Shell) == 0 {
		c.Shell = had.Shell
	}
	if len(c.OnBuild) == 0 {
		c.OnBuild = had.OnBuild
	}
}

func mergeHealth(c *dockerspec.DockerOCIImageConfig, had *dockerspec.HealthcheckConfig) {
	h := c.Healthcheck
	switch {
	case had == nil:
		return
	case h == nil:
		c.Healthcheck = had
		return
	}
	if len(h.Test) == 0 {
		h.Test = had.Test
	}
	for _, d := range []struct{ to, from *time.Duration }{
		{&h.Interval, &had.Interval}, {&h.Timeout, &had.Timeout}, {&h.StartPeriod, &had.StartPeriod}, {&h.StartInterval, &had.StartInterval},
	} {
		if *d.to == 0 {
			*d.to = *d.from
		}
	}
	if h.Retries == 0 {
		h.Retries = had.Retries
	}
}
