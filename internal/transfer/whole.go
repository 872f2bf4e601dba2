package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/wherry-engine/wherry/internal/transfer/failure"
)

// whole gets a document of at most limit bytes; what is its name in errors. One
// that is cut is asked for again, as often as a blob.
func (r *remote) whole(ctx context.Context, at *url.URL, header http.Header, limit int64, what string) ([]byte, http.Header, error) {
	for fails := 1; ; fails++ {
		b, said, err := r.attempt(ctx, at, header, limit, what)
		if err == nil || r.mirror || !cut(err) || fails >= r.tries || ctx.Err() != nil {
			return b, said, err
		}
		if err := sleep(ctx, min(100*time.Millisecond<<fails, 10*time.Second)); err != nil {
			return nil, nil, err
		}
	}
}

// cut tells whether a connection ended in the middle.
func cut(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

func (r *remote) attempt(ctx context.Context, at *url.URL, header http.Header, limit int64, what string) ([]byte, http.Header, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, err := r.do(ctx, call{method: http.MethodGet, url: at, header: header})
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	// A server that says no more holds nobody up.
	watchdog := time.AfterFunc(idle, func() { cancel(errIdle) })
	defer watchdog.Stop()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, failure.Read(resp)
	}
	if resp.ContentLength > limit {
		return nil, nil, invalid("%s has %d bytes, more than %d", what, resp.ContentLength, limit)
	}
	b, err := io.ReadAll(&lively{io.LimitReader(resp.Body, limit+1), watchdog})
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, nil, &failure.Error{Kind: errdefs.ErrInternal, Cause: fmt.Errorf("%s from %s: %w", what, r.base.Host, err), Temporary: true}
	}
	if int64(len(b)) > limit {
		return nil, nil, invalid("%s has more than %d bytes", what, limit)
	}
	return b, resp.Header, nil
}

// lively keeps a watchdog quiet as long as something comes.
type lively struct {
	r        io.Reader
	watchdog *time.Timer
}

func (l *lively) Read(b []byte) (int, error) {
	n, err := l.r.Read(b)
	if n > 0 {
		l.watchdog.Reset(idle)
	}
	return n, err
}
