// Package cdi owns the way from device requests (--device VENDOR/CLASS=NAME,
// --gpus) to the devices, mounts, variables and hooks that Container Device
// Interface specifications on this host describe.
//
// The specifications are read anew for each request and for info: what a
// driver installs is there at once, and nothing is watched while nobody asks.
package cdi

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/system"
	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// Directories are where specifications lie; a later one wins.
type Directories []string

// gpuVendors are asked first for a GPU of no particular vendor.
var gpuVendors = []string{"nvidia.com", "amd.com"}

// gpuWords are what --gpus may ask of a device.
var gpuWords = map[string]bool{
	"gpu": true, "nvidia": true, "amd": true, "compute": true, "compat32": true, "graphics": true, "utility": true, "video": true, "display": true,
}

// Cache reads the specifications; only its Refresh reads them again.
func (d Directories) Cache() (*cdi.Cache, error) {
	if len(d) == 0 {
		return nil, errors.New("no CDI specification directories specified")
	}
	return cdi.NewCache(cdi.WithSpecDirs(d...), cdi.WithAutoRefresh(false))
}

// Inject puts what the requests ask for into s.
func (d Directories) Inject(s *specs.Spec, requests []container.DeviceRequest) error {
	for _, r := range requests {
		if err := d.inject(s, r); err != nil {
			return err
		}
	}
	return nil
}

func (d Directories) inject(s *specs.Spec, r container.DeviceRequest) error {
	c, err := d.Cache()
	if err != nil {
		return fmt.Errorf("CDI device injection failed: %w", err)
	}
	names := r.DeviceIDs
	if r.Driver == "cdi" {
		if r.Count != 0 {
			return errdefs.ErrInvalidArgument.WithMessage("unexpected count in CDI device request")
		}
	} else if names, err = gpus(c, r); err != nil {
		return err
	}
	if len(r.Options) > 0 {
		return errdefs.ErrInvalidArgument.WithMessage("unexpected options in CDI device request")
	}
	if len(names) == 0 {
		return nil
	}
	if _, err := c.InjectDevices(s, names...); err != nil {
		return fmt.Errorf("CDI device injection failed: %w", errors.Join(append([]error{err}, complaints(c)...)...))
	}
	return nil
}

// gpus gives the full names of the devices that a request in the words of
// --gpus means.
func gpus(c *cdi.Cache, r container.DeviceRequest) ([]string, error) {
	vendor, ok := vendorOf(c, r)
	if !ok {
		return nil, errdefs.ErrInternal.WithMessage(fmt.Sprintf("could not select device driver %q with capabilities: %v", r.Driver, r.Capabilities))
	}
	var names []string
	switch {
	case r.Count != 0 && len(r.DeviceIDs) > 0:
		return nil, errdefs.ErrInvalidArgument.WithMessage("cannot set both Count and DeviceIDs on device request")
	case len(r.DeviceIDs) > 0:
		names = slices.Clone(r.DeviceIDs)
	case r.Count < 0:
		names = []string{"all"}
	default:
		for n := range r.Count {
			names = append(names, strconv.Itoa(n))
		}
	}
	for i, n := range names {
		if !strings.Contains(n, "=") {
			names[i] = vendor + "/gpu=" + n
		}
	}
	return names, nil
}

// vendorOf picks whose GPUs a request means: those of the driver that it names,
// else the first vendor that has any here.
func vendorOf(c *cdi.Cache, r container.DeviceRequest) (string, bool) {
	here := map[string]bool{}
	for _, name := range c.ListDevices() {
		if vendor, rest, ok := strings.Cut(name, "/"); ok && strings.HasPrefix(rest, "gpu=") {
			here[vendor] = true
		}
	}
	if r.Driver != "" {
		vendor := r.Driver + ".com"
		return vendor, here[vendor]
	}
	asked := slices.ContainsFunc(r.Capabilities, func(all []string) bool {
		return len(all) > 0 && !slices.ContainsFunc(all, func(word string) bool { return !gpuWords[word] })
	})
	if !asked {
		return "", false
	}
	for _, vendor := range append(slices.Clone(gpuVendors), slices.Sorted(maps.Keys(here))...) {
		if here[vendor] {
			return vendor, true
		}
	}
	return "", false
}

// complaints are what is wrong with the specifications, apart from directories
// that do not exist.
func complaints(c *cdi.Cache) []error {
	var out []error
	all := c.GetErrors()
	for _, path := range slices.Sorted(maps.Keys(all)) {
		for _, err := range all[path] {
			if !errors.Is(err, fs.ErrNotExist) {
				out = append(out, fmt.Errorf("CDI: Error associated with spec file %s: %w", path, err))
			}
		}
	}
	return out
}

// List names every device of the specifications, and says what is wrong with them.
func (d Directories) List() (devices []system.DeviceInfo, warnings []string) {
	if len(d) == 0 {
		return nil, nil
	}
	c, err := d.Cache()
	if err != nil {
		return nil, []string{"CDI cache initialization failed: " + err.Error()}
	}
	for _, name := range c.ListDevices() {
		devices = append(devices, system.DeviceInfo{Source: "cdi", ID: name})
	}
	for _, err := range complaints(c) {
		warnings = append(warnings, err.Error())
	}
	return devices, warnings
}
