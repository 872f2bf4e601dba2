// Package donor owns how the namespaces of a running container are found: by the
// number of its main process, of which the keeper's pidfd says whether it is still
// that process's.
package donor

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/linux/ns"
	"github.com/wherry-engine/wherry/internal/linux/pidfd"
	"github.com/wherry-engine/wherry/internal/supervise"
)

// Donors are the containers whose namespaces can be joined.
type Donors struct {
	store  *container.Store
	keeper *supervise.Client
}

// New joins the parts.
func New(s *container.Store, k *supervise.Client) *Donors { return &Donors{s, k} }

// Network opens the network namespace of a container's main process, never of
// another that has its number by now.
func (d *Donors) Network(containerID string, pid int) (*os.File, error) {
	w, err := d.Witness(containerID, pid)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	f, err := os.Open(ns.Path(pid, "net"))
	if err == nil && pidfd.Signal(w, 0) != nil {
		f.Close()
		err = os.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("network namespace of container %s: %w", containerID, err)
	}
	return f, nil
}

// Witness gives the pidfd of a container's main process, which has this number; the
// caller closes it.
func (d *Donors) Witness(containerID string, pid int) (*os.File, error) {
	w, err := d.keeper.Witness(supervise.Key{Container: containerID}, pid)
	if errdefs.IsNotFound(err) {
		err = errdefs.ErrConflict.WithMessage("container " + containerID + " is not running")
	}
	return w, err
}

// Find finds the container whose namespace, of the kind net, pid or ipc, another
// one joins.
func (d *Donors) Find(kind, ref string) (container.Record, error) {
	other, err := d.store.Get(ref)
	if err != nil {
		return container.Record{}, err
	}
	r := other.Snapshot()
	idle, ipc := !r.State.Running || r.State.Pid == 0, "can't join IPC of container "+r.ID+": "
	switch {
	case idle && kind == "net":
		return r, errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot join network namespace of a non running container: container %s is %s", ref, r.State.Status()))
	case idle && kind == "ipc":
		return r, errdefs.ErrConflict.WithMessage(ipc + "container " + r.ID + " is not running")
	case idle:
		return r, errdefs.ErrConflict.WithMessage("container " + r.ID + " is not running")
	case kind == "ipc" && (r.HostConfig.IpcMode.IsPrivate() || r.HostConfig.IpcMode.IsNone()):
		return r, errdefs.ErrConflict.WithMessage(ipc + "non-shareable IPC (hint: use IpcMode:shareable for the donor container)")
	case r.State.Restarting:
		return r, errdefs.ErrConflict.WithMessage(fmt.Sprintf("Container %s is restarting, wait until the container is running", r.ID))
	}
	return r, nil
}
