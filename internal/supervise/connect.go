package supervise

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/supervise/wire"
)

// Connect finds the running keeper, or starts one, makes it run Config.Keeper,
// and adopts what it supervises: see List. An engine that was connected before
// is disconnected.
func Connect(ctx context.Context, cfg Config) (*Client, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of the keeper: %w", err)
	}
	if err := os.Chmod(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of the keeper: %w", err)
	}
	if cfg.Logf == nil {
		cfg.Logf = func(string, ...any) {}
	}
	c := &Client{
		cfg: cfg, keeperSum: sum(cfg.Keeper), initSum: sum(cfg.Init),
		linked: make(chan struct{}), held: map[Key]*held{}, queue: newEventQueue(),
	}
	var err error
	for try := 0; try < 3; try++ { // the one we find may be about to end
		var l *link
		if l, _, err = c.reach(ctx); err == nil {
			if err = c.greet(l); err == nil {
				c.adopt(l)
				return c, nil
			}
			l.close()
			<-l.over
		}
		if !errors.Is(err, errdefs.ErrUnavailable) {
			break
		}
	}
	c.finish(err)
	return nil, fmt.Errorf("connect to the keeper: %w", err)
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// reach dials the running keeper, or starts one; fresh tells which.
func (c *Client) reach(ctx context.Context) (l *link, fresh bool, err error) {
	conn, err := dial(c.cfg.Dir)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
		fresh = true
		conn, err = c.spawn()
	}
	if err != nil {
		return nil, false, err
	}
	return newLink(conn, c.event), fresh, nil
}

func dial(dir string) (*net.UnixConn, error) {
	// The address of a socket is short; a directory need not be.
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: wire.SocketPath(fd), Net: "unix"})
}

// greet agrees with the keeper on programs and learns what it supervises.
func (c *Client) greet(l *link) error {
	w, err := welcome(l.call(wire.TypeHello, &wire.Hello{Version: wire.Version}, nil, nil))
	if err != nil {
		return err
	}
	if w.Build != c.keeperSum {
		if w, err = c.upgrade(l, w); err != nil {
			return err
		}
	}
	if w.Version != wire.Version {
		return fmt.Errorf("the running keeper (pid %d) speaks version %d, not %d", w.PID, w.Version, wire.Version)
	}
	if w.Init != c.initSum {
		f, err := sealed("wherry-init", c.cfg.Init)
		if err != nil {
			return err
		}
		_, err = l.call(wire.TypeInit, &wire.Text{S: c.initSum}, []*os.File{f}, nil)
		f.Close()
		if err != nil {
			return fmt.Errorf("hand over the init program: %w", err)
		}
	}
	_, err = l.call(wire.TypeAdopt, nil, nil, nil)
	return err
}

func welcome(f wire.Frame, err error) (*wire.Welcome, error) {
	if err != nil {
		return nil, err
	}
	w := new(wire.Welcome)
	return w, wire.Decode(f.Payload, w)
}

// upgrade makes the keeper become Config.Keeper. If it cannot, it is used as
// it is.
func (c *Client) upgrade(l *link, old *wire.Welcome) (*wire.Welcome, error) {
	f, err := sealed("wherry-keeper", c.cfg.Keeper)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	w, err := welcome(l.call(wire.TypeUpgrade, &wire.Upgrade{State: wire.StateVersion, Build: c.keeperSum}, []*os.File{f}, nil))
	if err == nil {
		c.cfg.Logf("keeper %d was upgraded", w.PID)
		return w, nil
	}
	if errors.Is(err, errdefs.ErrUnavailable) {
		return nil, err
	}
	c.cfg.Logf("keeper %d stays as it is: %v", old.PID, err)
	return old, nil
}

// Upgrade makes the keeper become another program, which Connect does by
// itself with Config.Keeper. Requests under way are waited for.
func (c *Client) Upgrade(ctx context.Context, program []byte) error {
	c.upgrading.Lock()
	defer c.upgrading.Unlock()
	l, err := c.current(ctx)
	if err != nil {
		return err
	}
	f, err := sealed("wherry-keeper", program)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = l.call(wire.TypeUpgrade, &wire.Upgrade{State: wire.StateVersion, Build: sum(program)}, []*os.File{f}, nil)
	if err != nil {
		return fmt.Errorf("upgrade the keeper: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cfg.Keeper, c.keeperSum = program, sum(program)
	return nil
}

// adopt makes l the connection in use.
func (c *Client) adopt(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over != nil {
		l.close()
		return
	}
	c.link = l
	close(c.linked)
	go c.guard(l)
}

// guard replaces the keeper when the connection is lost.
func (c *Client) guard(l *link) {
	<-l.over
	c.unlink(l)
	c.mu.Lock()
	over := c.over != nil
	c.mu.Unlock()
	if over {
		return
	}
	if errors.Is(l.err, errReplaced) {
		c.finish(errReplaced)
		return
	}
	c.cfg.Logf("the keeper is gone: %v", l.err)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := c.replace()
		if err == nil {
			return
		}
		if errors.Is(err, errReplaced) {
			c.finish(errReplaced)
			return
		}
		c.cfg.Logf("replace the keeper: %v", err)
		time.Sleep(wait) // what is in the way, such as a full disk, sends no event
	}
}

// replace connects again. A new keeper is handed all that this client holds.
func (c *Client) replace() error {
	c.mu.Lock()
	over := c.over
	before := map[Key]*held{}
	for k, h := range c.held {
		before[k] = h
	}
	c.mu.Unlock()
	if over != nil {
		return nil
	}
	l, fresh, err := c.reach(context.Background())
	if err != nil {
		return err
	}
	// Of a keeper that lives all this is news; then nothing is handed over.
	err = c.greet(l)
	if err == nil && fresh {
		err = c.handOver(l, before)
	}
	if err != nil {
		l.close()
		<-l.over
		if errors.Is(l.err, errReplaced) {
			return errReplaced
		}
		return err
	}
	c.tellLost(before, fresh)
	c.adopt(l)
	return nil
}

func (c *Client) handOver(l *link, before map[Key]*held) error {
	for key, h := range before {
		var files []*os.File
		for _, fd := range h.files {
			dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
			if err != nil {
				return os.NewSyscallError("fcntl", err)
			}
			files = append(files, os.NewFile(uintptr(dup), "stdio"))
		}
		_, err := l.call(wire.TypeHandOver, &h.rec, files, nil)
		for _, f := range files {
			f.Close()
		}
		if err != nil && !errors.Is(err, errdefs.ErrConflict) {
			return fmt.Errorf("hand over %s: %w", key, err)
		}
	}
	return nil
}

// tellLost tells the events that the loss of the connection has swallowed.
func (c *Client) tellLost(before map[Key]*held, fresh bool) {
	c.mu.Lock()
	var list []Event
	for key, old := range before {
		if fresh {
			for token, n := range old.tokens {
				for ; n > 0; n-- {
					list = append(list, AttachEnd{Key: key, Token: token, Reason: EndError})
				}
			}
			old.tokens = map[string]int{}
		}
		if now := c.held[key]; now != nil && now != old && now.rec.Exited != nil && old.rec.Exited == nil {
			list = append(list, exitOf(now.rec.Exited))
		}
	}
	c.mu.Unlock()
	for _, e := range list {
		c.queue.put(e)
	}
}

// sealed puts a program into memory that nobody can change any more.
func sealed(name string, program []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if n, err := f.Write(program); err != nil || n < len(program) {
		f.Close()
		return nil, fmt.Errorf("copy %s: %w", name, errors.Join(err, io.ErrShortWrite))
	}
	if err := unix.Fchmod(fd, 0o555); err != nil {
		f.Close()
		return nil, os.NewSyscallError("fchmod", err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, os.NewSyscallError("fcntl", err)
	}
	return f, nil
}
