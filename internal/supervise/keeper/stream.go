package keeper

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/logs"
	"github.com/wherry-engine/wherry/internal/supervise/wire"
)

// output is one stream that a process writes.
type output struct {
	p       *process
	fd      int // -1 when there is none, or none any more
	stream  logs.Stream
	watched bool
	full    int8 // how often in a row the buffer was filled; -1 once the pipe is a large one
}

// A process that keeps its pipe full gets a larger one: most of what a flood
// costs is the two waking each other up.
const (
	floodReads = 8
	floodPipe  = 1 << 20
)

// flooded is called after each read.
func (o *output) flooded(n int) {
	switch {
	case o.full < 0:
	case n < 60<<10: // an ordinary pipe holds 64 KiB
		o.full = 0
	default:
		if o.full++; o.full == floodReads {
			o.full = -1
			// It fails on a terminal, and where a user has enough large pipes.
			_, _ = unix.FcntlInt(uintptr(o.fd), unix.F_SETPIPE_SZ, floodPipe)
		}
	}
}

// resume watches for output.
func (o *output) resume() {
	if o.fd < 0 || o.watched {
		return
	}
	if err := o.p.k.loop.add(o.fd, unix.EPOLLIN, o); err != nil {
		logf("watch output: ", err.Error())
		return
	}
	o.watched = true
}

// pause stops watching: the process blocks once the pipe is full. An event
// mask of 0 would not do, for a hang-up is always told.
func (o *output) pause() {
	if o.watched {
		o.watched = false
		o.p.k.loop.del(o.fd)
	}
}

// ready reads what is there, with a bound so that one process does not keep
// the loop from the others.
func (o *output) ready(uint32) {
	for i := 0; i < 4 && o.fd >= 0; i++ {
		if o.p.congested() {
			o.p.outputs[0].pause()
			o.p.outputs[1].pause()
			return
		}
		if o.read() == 0 {
			return
		}
	}
}

// drainBytes is more than the largest pipe that a process can ask for holds.
const drainBytes = 2 << 20

// drain reads all that was there when the process exited, and gives clients
// what is theirs of it without a bound. What still has the other end may go on
// writing: that is none of the process's output, and is left to the loop.
func (o *output) drain() {
	o.resume()
	for total := 0; o.fd >= 0 && total < drainBytes; {
		n := o.read()
		if n == 0 {
			return
		}
		total += n
	}
}

// read copies one buffer full. It returns 0 when there is no more now.
func (o *output) read() int {
	k := o.p.k
	n, err := unix.Read(o.fd, k.buf[:])
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(o.fd, k.buf[:])
	}
	switch {
	case errors.Is(err, unix.EAGAIN):
		return 0
	case err != nil || n == 0: // EIO: the last one to have the terminal has closed it
		o.end()
		return 0
	}
	o.flooded(n)
	data := k.buf[:n]
	if w := o.p.log; w != nil {
		if err := w.Copy(o.stream, data, time.Now()); err != nil {
			o.p.logFailed(err, w.Dropped())
		}
	}
	for i := 0; i < len(o.p.clients); {
		c := o.p.clients[i]
		c.deliver(o.stream, data)
		if i < len(o.p.clients) && o.p.clients[i] == c { // it may be gone now
			i++
		}
	}
	return n
}

// end closes the stream at its end.
func (o *output) end() {
	o.pause()
	unix.Close(o.fd)
	o.fd = -1
	if w := o.p.log; w != nil {
		if err := w.End(o.stream, time.Now()); err != nil {
			o.p.logFailed(err, w.Dropped())
		}
	}
	o.p.outputEnded()
}

// congested reports whether a client has to catch up first.
func (p *process) congested() bool {
	return slices.ContainsFunc(p.clients, func(c *client) bool { return len(c.out) > maxBehind })
}

// relieved is called when a client has caught up or is gone.
func (p *process) relieved() {
	if p == nil || p.congested() {
		return
	}
	p.outputs[0].resume()
	p.outputs[1].resume()
}

// input is the standard input of a process.
type input struct {
	p       *process
	fd      int
	pending []byte // what the pipe did not take; clients are not read meanwhile
	ending  bool   // close when pending is written
}

// write takes over data from a client.
func (in *input) write(data []byte) {
	if len(in.pending) == 0 {
		for len(data) > 0 {
			n, err := unix.Write(in.fd, data)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if err != nil {
				in.close() // nobody reads it: what comes is thrown away
				return
			}
			data = data[n:]
		}
		if len(data) == 0 {
			return
		}
		if err := in.p.k.loop.add(in.fd, unix.EPOLLOUT, in); err != nil {
			logf("watch input: ", err.Error())
			in.close()
			return
		}
	}
	in.pending = append(in.pending, data...)
}

// blocked reports whether clients have to wait.
func (in *input) blocked() bool { return in != nil && len(in.pending) > 0 }

func (in *input) ready(uint32) {
	for len(in.pending) > 0 {
		n, err := unix.Write(in.fd, in.pending)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if err != nil {
			in.close()
			return
		}
		in.pending = in.pending[n:]
	}
	in.pending = nil
	in.p.k.loop.del(in.fd)
	if in.ending {
		in.close()
		return
	}
	in.p.inputReady()
}

// end closes the input behind what is pending.
func (in *input) end() {
	in.ending = true
	if len(in.pending) == 0 {
		in.close()
	}
}

// close closes the input at once. The engine has a duplicate that must go too,
// or the process would not see the end.
func (in *input) close() {
	p := in.p
	if p.stdin != in {
		return
	}
	p.k.loop.del(in.fd)
	unix.Close(in.fd)
	p.stdin = nil
	in.pending = nil
	if p.exit == nil && !p.terminal {
		p.k.engine.send(wire.TypeStdinClosed, 0, &wire.Target{Key: p.key})
	}
	p.inputReady()
}

// inputReady lets clients go on typing.
func (p *process) inputReady() {
	for _, c := range slices.Clone(p.clients) {
		c.update()
	}
}
