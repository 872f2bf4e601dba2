package cp

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
)

// Export sends the container's own files as a tar stream, without what is
// mounted into it. open is called once, when all checks have passed.
func (f *Files) Export(ctx context.Context, ref string, open func() io.Writer) error {
	c, err := f.store.Get(ref)
	if err != nil {
		return err
	}
	switch r := c.Snapshot(); {
	case r.State.Dead:
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("You cannot export container %s which is dead", r.ID))
	case r.State.Removing:
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("You cannot export container %s which is being removed", r.ID))
	}
	v, err := f.open(ctx, c, bare)
	if err != nil {
		return err
	}
	defer v.close()
	p := newPacker(ctx, open(), v.ids)
	if err := p.children(v.root, "", ""); err != nil {
		return system(fmt.Errorf("export container %s: %w", ref, err))
	}
	if err := p.close(); err != nil {
		return err
	}
	f.publish(c, events.ActionExport, nil)
	return nil
}
