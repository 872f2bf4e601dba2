package buildcontext

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// UploadPrefix is what a request of version 2 that brings a context alone has
// before the id of its build.
const UploadPrefix = "upload-request:"

// Uploads are contexts that clients post in a request of their own, beside that
// of the build. Either may come first. The zero value is none.
type Uploads struct {
	mu sync.Mutex
	m  map[string]*meeting // by build
}

// meeting is where the two requests of a build find each other.
type meeting struct {
	uploads chan upload
	users   int // who is there or waits
}

type upload struct {
	body io.Reader
	over chan struct{} // closed when it is not read any more
}

func (u *Uploads) join(build string) (m *meeting, leave func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	m = u.m[build]
	if m == nil {
		if u.m == nil {
			u.m = map[string]*meeting{}
		}
		m = &meeting{uploads: make(chan upload)}
		u.m[build] = m
	}
	m.users++
	return m, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if m.users--; m.users == 0 {
			delete(u.m, build)
		}
	}
}

// Bring hands a body to the build with that id, and returns when the build does
// not read it any more.
func (u *Uploads) Bring(ctx context.Context, build string, body io.Reader) error {
	m, leave := u.join(build)
	defer leave()
	up := upload{body, make(chan struct{})}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case m.uploads <- up:
	case <-late.C:
		return errdefs.ErrInvalidArgument.WithMessage("no build " + build + " waits for a context")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	// Not before, whatever becomes of the client: its body is another's to read.
	<-up.over
	return nil
}

// Await gives what was brought for a build. The caller calls done when it does
// not read it any more.
func (u *Uploads) Await(ctx context.Context, build string) (body io.Reader, done func(), err error) {
	m, leave := u.join(build)
	defer leave()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case up := <-m.uploads:
		return up.body, func() { close(up.over) }, nil
	case <-late.C:
		return nil, nil, errdefs.ErrInvalidArgument.WithMessage("no context came for the build " + build)
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
}
