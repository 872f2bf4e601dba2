package agent

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// Idle is how long a server may send nothing of an answer that it has begun.
const Idle = 30 * time.Second

// working is how long a server may take for what was sent to it: of a large blob
// it makes sure that it is whole, and puts it where it stays.
const working = 15 * time.Minute

// ErrSilent is that of a request which nobody answers, and that sends nothing itself.
var ErrSilent = errors.New("no answer came for a while")

// ErrIdle is what reading such an answer ends with.
var ErrIdle = errors.New("no data came for a while")

// Patient returns a client's transport that gives up servers which do not answer
// for twice idle, and answers that stop in the middle for idle, whoever reads them.
func Patient(t *http.Transport, idle time.Duration) http.RoundTripper { return &patient{t, idle} }

// patient is one.
type patient struct {
	*http.Transport
	idle time.Duration
}

// RoundTrip sends a request.
func (p *patient) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	silence := time.AfterFunc(2*p.idle, func() { cancel(ErrSilent) })
	if req.Body != nil && req.Body != http.NoBody {
		silence.Stop() // it may take long to be sent
	}
	resp, err := p.Transport.RoundTrip(req.WithContext(ctx))
	silence.Stop()
	if err != nil {
		if errors.Is(context.Cause(ctx), ErrSilent) {
			err = ErrSilent
		}
		cancel(nil)
		return nil, err
	}
	b := &body{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, idle: p.idle}
	b.watchdog = time.AfterFunc(p.idle, func() { cancel(ErrIdle) })
	b.watchdog.Stop() // until somebody reads
	resp.Body = b
	return resp, nil
}

// body is an answer's.
type body struct {
	io.ReadCloser
	ctx      context.Context
	cancel   context.CancelCauseFunc
	watchdog *time.Timer
	idle     time.Duration
}

func (b *body) Read(p []byte) (int, error) {
	b.watchdog.Reset(b.idle)
	n, err := b.ReadCloser.Read(p)
	b.watchdog.Stop()
	if cause := context.Cause(b.ctx); err != nil && (errors.Is(cause, ErrIdle) || errors.Is(cause, ErrSilent)) {
		err = cause
	}
	return n, err
}

func (b *body) Close() error {
	b.watchdog.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
