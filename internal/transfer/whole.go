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

// long is how long a document may take: a server that sends a byte now and then
// holds nobody up.
const long = 5 * time.Minute

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
	ctx, cancel := context.WithTimeoutCause(ctx, long, fmt.Errorf("it takes longer than %s", long))
	defer cancel()
	resp, err := r.do(ctx, call{method: http.MethodGet, url: at, header: header})
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, failure.Read(resp)
	}
	if resp.ContentLength > limit {
		return nil, nil, invalid("%s has %d bytes, more than %d", what, resp.ContentLength, limit)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
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
