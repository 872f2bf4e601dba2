package logs

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// pollEvery is how often a log is looked at when the kernel has no more
// inotify instances to give.
const pollEvery = 200 * time.Millisecond

// watch tells that a log may have changed.
type watch struct {
	changed chan struct{} // one element at most
	file    *os.File      // the inotify instance; nil when polling
	stop    chan struct{}
}

func newWatch(path string) *watch {
	w := &watch{changed: make(chan struct{}, 1), stop: make(chan struct{})}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err == nil {
		// The directory: files of the log come, go and are renamed in it.
		const events = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM
		if _, err = unix.InotifyAddWatch(fd, filepath.Dir(path), events); err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		go w.poll()
		return w
	}
	w.file = os.NewFile(uintptr(fd), "inotify")
	go w.read()
	return w
}

func (w *watch) read() {
	buf := make([]byte, 4096)
	for {
		if _, err := w.file.Read(buf); err != nil {
			return // closed
		}
		w.tell()
	}
}

func (w *watch) poll() {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			w.tell()
		case <-w.stop:
			return
		}
	}
}

func (w *watch) tell() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

func (w *watch) close() {
	close(w.stop)
	if w.file != nil {
		w.file.Close()
	}
}
