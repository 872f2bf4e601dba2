package volume

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/wherry-engine/wherry/internal/plugin"
)

// capability is what a plugin with volumes implements.
const capability = "VolumeDriver"

// How long a plugin may take to answer: about itself and its volumes, and to
// make, mount or remove one, which may mean work on another machine.
const (
	shortWait = 30 * time.Second
	longWait  = 2 * time.Minute
)

// drivers are the volume drivers that are plugins.
type drivers struct{ plugins *plugin.Set } // nil without any

// remote is a volume as a plugin tells of it.
type remote struct {
	Name, Mountpoint string
	CreatedAt        string
	Status           map[string]any
}

// wait bounds a question to a plugin.
func wait(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("within %v", d))
}

// get finds a driver by name.
func (d *drivers) get(ctx context.Context, name string) (*plugin.Plugin, error) {
	if d.plugins == nil {
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("plugin %q not found", name))
	}
	ctx, cancel := wait(ctx, shortWait)
	defer cancel()
	return d.plugins.Get(ctx, name, capability)
}

// call asks a driver; name is the volume's, for the error.
func (d *drivers) call(ctx context.Context, driver, method string, patience time.Duration, in, out any) error {
	p, err := d.get(ctx, driver)
	if err != nil {
		return err
	}
	ctx, cancel := wait(ctx, patience)
	defer cancel()
	return p.Call(ctx, capability+"."+method, in, out)
}

type byName struct{ Name string }

func (d *drivers) create(ctx context.Context, driver, name string, options map[string]string) error {
	if options == nil {
		options = map[string]string{}
	}
	return d.call(ctx, driver, "Create", longWait, struct {
		Name string
		Opts map[string]string
	}{name, options}, nil)
}

// find asks a driver for a volume; nil when it has none of that name. What a
// plugin says of one that is not there is in no form: any error of its own is
// taken for that.
func (d *drivers) find(ctx context.Context, driver, name string) (*remote, error) {
	var out struct{ Volume *remote }
	err := d.call(ctx, driver, "Get", shortWait, byName{name}, &out)
	if said := (*plugin.Error)(nil); errors.As(err, &said) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if out.Volume == nil || out.Volume.Name != name {
		return nil, nil
	}
	return out.Volume, nil
}

func (d *drivers) list(ctx context.Context, driver string) ([]remote, error) {
	var out struct{ Volumes []remote }
	err := d.call(ctx, driver, "List", shortWait, nil, &out)
	return out.Volumes, err
}

func (d *drivers) remove(ctx context.Context, driver, name string) error {
	return d.call(ctx, driver, "Remove", longWait, byName{name}, nil)
}

type byRun struct{ Name, ID string }

// mount asks a driver for the directory of a volume, for a container.
func (d *drivers) mount(ctx context.Context, driver, name, container string) (string, error) {
	var out struct{ Mountpoint string }
	if err := d.call(ctx, driver, "Mount", longWait, byRun{name, container}, &out); err != nil {
		return "", err
	}
	if !filepath.IsAbs(out.Mountpoint) || filepath.Clean(out.Mountpoint) == "/" {
		return "", fmt.Errorf("plugin %s: VolumeDriver.Mount: it answers with the path %q, which cannot be a volume's", driver, out.Mountpoint)
	}
	return filepath.Clean(out.Mountpoint), nil
}

func (d *drivers) unmount(ctx context.Context, driver, name, container string) error {
	return d.call(ctx, driver, "Unmount", longWait, byRun{name, container}, nil)
}

// scope says whether a driver's volumes belong to this host or to several.
func (d *drivers) scope(ctx context.Context, driver string) string {
	var out struct{ Capabilities struct{ Scope string } }
	if err := d.call(ctx, driver, "Capabilities", shortWait, nil, &out); err == nil && out.Capabilities.Scope == "global" {
		return "global"
	}
	return "local" // as docker takes it for drivers that do not say
}

// all lists the drivers that there are, whether they answer or not.
func (d *drivers) all(ctx context.Context) []string {
	if d.plugins == nil {
		return nil
	}
	var out []string
	for _, name := range d.plugins.Names() {
		ctx, cancel := wait(ctx, probeWait)
		_, err := d.plugins.Get(ctx, name, capability)
		cancel()
		if !errdefs.IsNotFound(err) { // one of another kind, or gone
			out = append(out, name)
		}
	}
	return out
}

// probeWait bounds asking a plugin that nobody has named.
const probeWait = 3 * time.Second
