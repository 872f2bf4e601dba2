// Package ship owns the sending of log lines to where a remote logging driver
// wants them. It reads the files that the keeper writes, so that a receiver
// that is slow, away or refused never holds a container up, and what was
// written while no engine ran is sent by the next one.
//
// In the container's directory:
//
//	shipped   the logs.Position behind the last line that was sent: File and
//	          Off, 8 bytes each, little endian; written after each line
//
// A line is sent again only when the engine was killed between sending and
// noting it, or when a connection broke under it.
package ship

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/wherry-engine/wherry/internal/logs"
	"github.com/wherry-engine/wherry/internal/logs/driver"
)

// finishLimit is how long the removal of a container waits for lines to be
// sent, as long as the receiver takes any.
const finishLimit = 5 * time.Second

// Shipper sends the lines of all containers that ask for it. Use New.
type Shipper struct {
	mu   sync.Mutex
	jobs map[string]*job
	work sync.WaitGroup
}

// New returns a shipper that sends nothing yet.
func New() *Shipper { return &Shipper{jobs: map[string]*job{}} }

// job is the sending of one container's lines.
type job struct {
	cancel context.CancelFunc
	ended  chan struct{} // closed when the container's process has ended
	once   sync.Once
	done   chan struct{} // closed when all is sent, or it was given up
	sender sender
	stuck  bool // the receiver cannot be reached; guarded by mu
	mu     sync.Mutex
	at     *os.File
}

// sender speaks a receiver's protocol. An error means that the line has to be
// sent again, over a new connection.
type sender interface {
	send(ctx context.Context, e *logs.Entry) error
	close()
}

// errStopped is why a job ends before its log does.
var errStopped = errors.New("the log is sent no more")

// Start begins to send what is in the log and what comes. A container that is
// started again goes on where it was.
func (s *Shipper) Start(id, dir string, t logs.Target, to *driver.Sink) {
	s.stop(id)
	ctx, cancel := context.WithCancelCause(context.Background())
	j := &job{cancel: func() { cancel(errStopped) }, ended: make(chan struct{}), done: make(chan struct{}), sender: newSender(to)}
	s.mu.Lock()
	s.jobs[id] = j
	s.mu.Unlock()
	s.work.Go(func() {
		defer close(j.done)
		defer j.sender.close()
		if err := j.run(ctx, id, dir, t); err != nil && ctx.Err() == nil {
			slog.Warn("send log", "container", id, "error", err)
		}
	})
}

// Ended tells that nothing more will be written.
func (s *Shipper) Ended(id string) {
	if j := s.job(id); j != nil {
		j.once.Do(func() { close(j.ended) })
	}
}

// Finish waits until a container that is to be removed has all its lines sent,
// unless the receiver is away, and ends the sending.
func (s *Shipper) Finish(id string) {
	j := s.job(id)
	if j == nil {
		return
	}
	s.Ended(id)
	limit := time.NewTimer(finishLimit)
	defer limit.Stop()
	j.mu.Lock()
	stuck := j.stuck
	j.mu.Unlock()
	if !stuck {
		select {
		case <-j.done:
		case <-limit.C:
		}
	}
	s.stop(id)
}

// Close ends all sending; the next engine goes on with it.
func (s *Shipper) Close() {
	s.mu.Lock()
	for _, j := range s.jobs {
		j.cancel()
	}
	s.mu.Unlock()
	s.work.Wait()
}

func (s *Shipper) job(id string) *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.jobs[id]
}

func (s *Shipper) stop(id string) {
	s.mu.Lock()
	j := s.jobs[id]
	delete(s.jobs, id)
	s.mu.Unlock()
	if j != nil {
		j.cancel()
		<-j.done
	}
}

func (j *job) run(ctx context.Context, id, dir string, t logs.Target) error {
	f, err := os.OpenFile(filepath.Join(dir, "shipped"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	j.at = f
	from, err := j.position()
	if err != nil {
		return err
	}
	return logs.Read(ctx, t, logs.ReadOptions{
		Tail: -1, Follow: true, Done: j.ended, Positions: true, From: from,
		Lost: func() { slog.Warn("log lines were rotated away before they were sent", "container", id) },
	}, func(e logs.Entry) error {
		next := e.Next
		e.Line = bytes.TrimSuffix(e.Line, []byte("\n"))
		if err := j.deliver(ctx, id, &e); err != nil {
			return err
		}
		return j.note(next)
	})
}

// deliver sends one line, as often as it takes.
func (j *job) deliver(ctx context.Context, id string, e *logs.Entry) error {
	const first, last = 100 * time.Millisecond, 15 * time.Second
	for wait := first; ; wait = min(2*wait, last) {
		err := j.sender.send(ctx, e)
		if err == nil {
			if wait != first {
				j.setStuck(false)
				slog.Info("log lines are sent again", "container", id)
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if wait == first {
			j.setStuck(true)
			slog.Warn("log lines wait for their receiver", "container", id, "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

func (j *job) setStuck(stuck bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stuck = stuck
}

// position reads where the sending ended; a short file is a new one.
func (j *job) position() (logs.Position, error) {
	var b [16]byte
	switch _, err := j.at.ReadAt(b[:], 0); {
	case errors.Is(err, io.EOF):
		return logs.Position{}, nil
	case err != nil:
		return logs.Position{}, err
	}
	return logs.Position{File: binary.LittleEndian.Uint64(b[:]), Off: int64(binary.LittleEndian.Uint64(b[8:]))}, nil
}

func (j *job) note(p logs.Position) error {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], p.File)
	binary.LittleEndian.PutUint64(b[8:], uint64(p.Off))
	_, err := j.at.WriteAt(b[:], 0)
	return err
}

func newSender(to *driver.Sink) sender {
	l := link{sink: to}
	switch to.Driver {
	case "syslog":
		return &syslog{link: l}
	case "gelf":
		return &gelf{link: l}
	case "fluentd":
		return &fluentd{link: l}
	}
	return &journald{sink: to, path: driver.JournalSocket}
}
