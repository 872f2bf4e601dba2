// Package keeper owns the program that is the parent of an engine's processes:
// it starts them, copies their output into log files and to attached clients,
// keeps their exit codes, and goes on with all that while no engine is there.
//
// One goroutine, the loop, owns all state. Only the start of a process and the
// compression of a rotated log run beside it.
//
// In its directory:
//
//	keeper.sock     where engines connect; the newest one wins
//	keeper.lock     locked while a keeper lives
//	keeper.log      its standard error
//	exits/KEY       a wire.Exit that no engine has heard of yet
package keeper

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/logs"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
	"github.com/wherry-engine/wherry/internal/supervise/wire"
)

// StartFunc is sandbox.Start, or what stands in for it.
type StartFunc func(init *os.File, p *sandbox.Plan, io sandbox.Stdio, extra []*os.File) (*sandbox.Process, error)

// Ahead forks what the next process begins as before that is asked for; nil
// where nothing is done ahead. See sandbox.Reserve.
type Ahead interface{ Prepare() error }

// aheadDelay is how long after a start the next one is prepared: the client that
// waits for a short program comes first.
const aheadDelay = 10 * time.Millisecond

// Keeper is the whole state.
type Keeper struct {
	dir    string
	build  string // told to engines, which compare it with their own program's
	start  StartFunc
	ahead  Ahead
	loop   *loop
	lock   int
	listen int

	init     *os.File // the program for new processes; nil until an engine sent it
	initHash string
	devnull  *os.File

	engine   *control // the one that is served; nil while there is none
	controls map[*control]struct{}
	procs    map[wire.Key]*process
	clients  map[*client]struct{}  // also those of processes that were forgotten
	starting map[wire.Key]*control // handed to StartFunc, by whom
	lists    []func()              // answers that wait for starts that earlier engines asked for
	held     int                   // processes that wait for Release
	upgrade  *upgrade              // waits for starting and held to be none
	idle     *timer
	next     *timer // aheadDelay

	buf     [128 << 10]byte // what was read last, from anywhere
	oob     []byte
	frame   []byte
	scratch logs.Scratch
}

func newKeeper(dir, build string, start StartFunc, ahead Ahead) (*Keeper, error) {
	l, err := newLoop()
	if err != nil {
		return nil, err
	}
	k := &Keeper{
		dir: dir, build: build, start: start, ahead: ahead, loop: l, lock: -1, listen: -1,
		controls: map[*control]struct{}{},
		procs:    map[wire.Key]*process{},
		clients:  map[*client]struct{}{},
		starting: map[wire.Key]*control{},
		oob:      make([]byte, wire.ControlLen()),
	}
	k.devnull, err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return k, nil
}

// takeLock locks the file at path, which the keeper before this one may be
// about to remove: a lock on a file that has lost its name is worth nothing.
func takeLock(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
		// A keeper that was killed may take a moment to be gone.
		got := make(chan error, 1)
		go func() { got <- unix.Flock(fd, unix.LOCK_EX) }()
		select {
		case err = <-got:
		case <-time.After(3 * time.Second):
			return -1, errors.New("another keeper is running")
		}
		if err != nil {
			return -1, err
		}
		var mine, named unix.Stat_t
		if err := unix.Fstat(fd, &mine); err != nil {
			return -1, err
		}
		if unix.Stat(path, &named) == nil && named.Ino == mine.Ino && named.Dev == mine.Dev {
			return fd, nil
		}
		unix.Close(fd)
	}
}

// open takes the lock and listens.
func (k *Keeper) open() error {
	var err error
	if k.lock, err = takeLock(filepath.Join(k.dir, "keeper.lock")); err != nil {
		return err
	}
	path := filepath.Join(k.dir, "keeper.sock")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	k.listen, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	// The address of a socket is short; a directory need not be.
	dirfd, err := unix.Open(k.dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(dirfd)
	if err := unix.Bind(k.listen, &unix.SockaddrUnix{Name: wire.SocketPath(dirfd)}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	if err := unix.Listen(k.listen, 16); err != nil {
		return os.NewSyscallError("listen", err)
	}
	return nil
}

// serve runs until there is nothing left to do.
func (k *Keeper) serve() error {
	if err := k.loop.add(k.listen, unix.EPOLLIN, listener{k}); err != nil {
		return err
	}
	return k.loop.run()
}

// engineLost is called when no engine is connected any more.
func (k *Keeper) engineLost() {
	for _, p := range k.procs {
		if p.reported {
			p.saveExit()
		}
	}
	k.mayEnd()
}

// mayEnd ends the keeper when nobody needs it: the next engine starts another
// one, which finds the exits that are still to be told in the directory.
func (k *Keeper) mayEnd() {
	if len(k.controls) > 0 || len(k.clients) > 0 || len(k.starting) > 0 || k.idle != nil {
		return
	}
	for _, p := range k.procs {
		if !p.reported || !p.drained() {
			return
		}
	}
	k.sweep()
	k.loop.stopped = true
}

// sweep leaves the directory as it was found: only a log with something in it,
// and exits that no engine has asked for, stay. The lock's name goes last.
func (k *Keeper) sweep() {
	at := func(name string) string { return filepath.Join(k.dir, name) }
	_ = os.Remove(at("keeper.sock"))
	_ = unix.Rmdir(at("exits")) // not with something in it
	if st, err := os.Stat(at("keeper.log")); err == nil && st.Size() == 0 {
		_ = os.Remove(at("keeper.log"))
	}
	_ = os.Remove(at("keeper.lock"))
}

// logf writes a line to standard error, which is keeper.log.
func logf(parts ...string) {
	b := time.Now().UTC().AppendFormat(nil, "2006-01-02T15:04:05.000Z ")
	for _, p := range parts {
		b = append(b, p...)
	}
	_, _ = os.Stderr.Write(append(b, '\n'))
}
