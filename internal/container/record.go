// Package container owns what the engine knows of each container: the record
// as the user sent it, the state derived from what happened since, the table of
// legal transitions, who waits for which of them, and the form on disk.
//
// # On disk
//
//	<data-root>/containers/<first two characters of the id>/<id>/
//	    config.json   Record as JSON, "Version": 1; replaced atomically
//	    hostname hosts resolv.conf   bound into the container by the engine
//	    <id>-json.log                written by the keeper
//
// A record of a version this package does not know is reported and left alone.
// Records are synced to disk when a container is created or configured anew
// (unless it goes away with its process, --rm); changes of state are only
// handed to the kernel, for after a power failure nothing runs any more.
package container

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/atomicfile"
)

const version = 1

// Record is the persistent part of a container.
type Record struct {
	Version  int
	ID       string
	Name     string // without the leading slash that the API shows
	Created  time.Time
	Path     string
	Args     []string
	Platform string
	Driver   string

	Config        *container.Config
	HostConfig    *container.HostConfig
	ImageID       string
	ImageManifest *ocispec.Descriptor `json:",omitempty"`
	Mounts        []Mount             `json:",omitempty"`
	LogPath       string

	Networks  map[string]*network.EndpointSettings // as asked for; with addresses while running
	Ports     network.PortMap                      `json:",omitempty"` // as bound while running
	SandboxID string                               `json:",omitempty"`

	State        State
	RestartCount int
	Ending       *Cause `json:",omitempty"` // asked for while it runs
	End          *End   `json:",omitempty"`
	// ManuallyStopped keeps the policy unless-stopped from starting it at boot.
	ManuallyStopped bool   `json:",omitempty"`
	CgroupPath      string `json:",omitempty"`
	SeccompProfile  string `json:",omitempty"`
	AppArmorProfile string `json:",omitempty"`
	MountLabel      string `json:",omitempty"`
	ProcessLabel    string `json:",omitempty"`
}

// Mount is a resolved mount: what inspect shows and what a start needs.
type Mount struct {
	container.MountPoint
	ReadOnlyNonRecursive   bool   `json:",omitempty"`
	ReadOnlyForceRecursive bool   `json:",omitempty"`
	NonRecursive           bool   `json:",omitempty"`
	DefaultPropagation     bool   `json:",omitempty"` // the user named none
	TmpfsOptions           string `json:",omitempty"`
	Anonymous              bool   `json:",omitempty"` // a volume that --rm and rm -v take away
	CreateSource           bool   `json:",omitempty"` // -v makes a missing host directory, --mount does not
	FromSpec               bool   `json:",omitempty"` // given by --mount or --tmpfs rather than -v
	NoCopy                 bool   `json:",omitempty"` // a volume that does not get what the image has there
	Subpath                string `json:",omitempty"` // of the volume or image
	Device                 uint64 `json:",omitempty"` // file system of a volume that is one, as the last start mounted it
	IDMap                  string `json:",omitempty"` // other owners of the files: "auto", or ranges as idmap.ParseMount reads them
	Layer                  string `json:",omitempty"` // of a mounted image: the writable layer that keeps its layers alive
}

// Attributes are what an event says of the container: its labels, image and
// name, and what is special to the event.
func (r *Record) Attributes(extra map[string]string) map[string]string {
	a := make(map[string]string, len(r.Config.Labels)+2+len(extra))
	maps.Copy(a, r.Config.Labels)
	if r.Config.Image != "" {
		a["image"] = r.Config.Image
	}
	a["name"] = r.Name
	maps.Copy(a, extra)
	return a
}

func dir(root, id string) string { return filepath.Join(root, id[:2], id) }

// write stores the record. The caller holds the container's lock.
func (r *Record) write(root string, d atomicfile.Durability) error {
	s, err := r.stage(root, d)
	if err != nil {
		return err
	}
	return s.Commit()
}

// stage is the part of write that a full disk makes fail.
func (r *Record) stage(root string, d atomicfile.Durability) (*atomicfile.Staged, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("record of %s: %w", r.ID, err)
	}
	return atomicfile.Stage(filepath.Join(dir(root, r.ID), "config.json"), data, 0o600, d)
}

func read(root, id string) (*Record, error) {
	path := filepath.Join(dir(root, id), "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if r.Version != version {
		return nil, fmt.Errorf("%s: version %d is not known to this engine (it knows %d)", path, r.Version, version)
	}
	if r.ID != id {
		return nil, fmt.Errorf("%s: holds the record of %q", path, r.ID)
	}
	return &r, nil
}
