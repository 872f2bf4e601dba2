package keeper

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// watcher is told that something happened to its descriptor. What happened is
// a hint only: every operation on a descriptor of the loop is non-blocking.
type watcher interface{ ready(events uint32) }

// loop is the one goroutine that owns all state of the keeper. A goroutine for
// each pipe would cost more memory than all the rest of an idle process.
type loop struct {
	epfd, wake int
	slots      []slot // by descriptor
	gen        int32
	timers     []*timer // few; unordered
	stopped    bool

	mu     sync.Mutex
	posted []func()
}

// slot says who watches a descriptor; gen tells an event of an earlier
// descriptor with the same number apart.
type slot struct {
	w   watcher
	gen int32
}

type timer struct {
	at time.Time
	f  func()
}

func newLoop() (*loop, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epfd)
		return nil, err
	}
	l := &loop{epfd: epfd, wake: wake}
	if err := l.add(wake, unix.EPOLLIN, wakeup{l}); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *loop) close() {
	unix.Close(l.epfd)
	unix.Close(l.wake)
}

// add begins to watch a descriptor; del ends that, and must be called before
// the descriptor is closed.
func (l *loop) add(fd int, events uint32, w watcher) error {
	for fd >= len(l.slots) {
		l.slots = append(l.slots, make([]slot, 64)...)
	}
	l.gen++
	l.slots[fd] = slot{w, l.gen}
	return l.ctl(unix.EPOLL_CTL_ADD, fd, events)
}

func (l *loop) mod(fd int, events uint32) error {
	return l.ctl(unix.EPOLL_CTL_MOD, fd, events)
}

func (l *loop) del(fd int) {
	if fd >= 0 && fd < len(l.slots) && l.slots[fd].w != nil {
		l.slots[fd] = slot{}
		// It fails only for a descriptor that is not there, which is what is wanted.
		_ = unix.EpollCtl(l.epfd, unix.EPOLL_CTL_DEL, fd, nil)
	}
}

func (l *loop) ctl(op, fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: l.slots[fd].gen}
	return unix.EpollCtl(l.epfd, op, fd, &ev)
}

// post has f called by the loop. It is the only method for other goroutines.
func (l *loop) post(f func()) {
	l.mu.Lock()
	l.posted = append(l.posted, f)
	l.mu.Unlock()
	one := [8]byte{1}
	// A full counter means that the loop is awake already.
	_, _ = unix.Write(l.wake, one[:])
}

type wakeup struct{ l *loop }

func (w wakeup) ready(uint32) {
	var n [8]byte
	_, _ = unix.Read(w.l.wake, n[:])
	w.l.mu.Lock()
	list := w.l.posted
	w.l.posted = nil
	w.l.mu.Unlock()
	for _, f := range list {
		f()
	}
}

// after has f called once, later than d from now, unless it is cancelled.
func (l *loop) after(d time.Duration, f func()) *timer {
	t := &timer{time.Now().Add(d), f}
	l.timers = append(l.timers, t)
	return t
}

func (l *loop) cancel(t *timer) {
	if t != nil {
		t.f = nil
	}
}

// expire runs the timers that are due and returns the milliseconds to the next
// one, or -1.
func (l *loop) expire() int {
	if len(l.timers) == 0 {
		return -1
	}
	now := time.Now()
	due := l.timers
	l.timers = nil
	for _, t := range due {
		switch {
		case t.f == nil:
		case now.Before(t.at):
			l.timers = append(l.timers, t)
		default:
			t.f()
		}
	}
	wait := -1
	for _, t := range l.timers {
		if ms := int(t.at.Sub(now)/time.Millisecond) + 1; wait < 0 || ms < wait {
			wait = max(ms, 0)
		}
	}
	return wait
}

// run serves until stopped is set.
func (l *loop) run() error {
	events := make([]unix.EpollEvent, 64)
	for {
		wait := l.expire()
		if l.stopped {
			return nil
		}
		n, err := unix.EpollWait(l.epfd, events, wait)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for _, ev := range events[:max(n, 0)] {
			if s := l.slots[ev.Fd]; s.w != nil && s.gen == ev.Pad {
				s.w.ready(ev.Events)
			}
		}
	}
}
