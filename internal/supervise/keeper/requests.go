package keeper

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
	"github.com/wherry-engine/wherry/internal/supervise/wire"
)

func notFound(key wire.Key) error {
	return &wire.Failure{Kind: wire.FailNotFound, Message: "no running process " + key.String()}
}

// handle serves one frame. An error ends the connection: the peer does not
// speak the protocol.
func (k *Keeper) handle(c *control, f wire.Frame) error {
	if f.Type == wire.TypeHello {
		return k.welcome(c, f)
	}
	if c != k.engine {
		wire.CloseAll(f.Files)
		return errors.New("not greeted")
	}
	switch f.Type {
	case wire.TypeStart:
		return k.handleStart(c, f)
	case wire.TypeAttach:
		return k.handleAttach(c, f)
	case wire.TypeUpgrade:
		return k.handleUpgrade(c, f)
	case wire.TypeInit:
		return k.handleInit(c, f)
	case wire.TypeHandOver:
		return k.handleHandOver(c, f)
	}
	wire.CloseAll(f.Files)
	switch f.Type {
	case wire.TypeAdopt:
		for _, p := range k.procs {
			p.sendHeld(c)
		}
		c.done(f.ID, nil)
		return nil
	case wire.TypeList:
		settled(k, c, func() {
			if c.fd < 0 {
				return
			}
			list := wire.Processes{List: make([]wire.Process, 0, len(k.procs))}
			for _, p := range k.procs {
				list.List = append(list.List, p.record())
			}
			c.done(f.ID, &list)
		})
		return nil
	}
	return k.handleTarget(c, f)
}

// settleLimit is how long a list waits for what an earlier engine has started.
const settleLimit = 10 * time.Second

// settled calls f when nothing is being started any more that another engine than
// c asked for: a new one that did not hear of it would think that it does not run.
func settled(k *Keeper, c *control, f func()) {
	for _, by := range k.starting {
		if by != c {
			called := false
			once := func() {
				if !called {
					called = true
					f()
				}
			}
			k.lists = append(k.lists, once)
			k.loop.after(settleLimit, once)
			return
		}
	}
	f()
}

func (k *Keeper) handleTarget(c *control, f wire.Frame) error {
	var t wire.Target
	if err := wire.Decode(f.Payload, &t); err != nil {
		return err
	}
	p := k.procs[t.Key]
	var err error
	switch f.Type {
	case wire.TypeForget:
		err = k.forget(t.Key)
	case wire.TypeRelease:
		if p != nil && p.release != nil {
			p.goOn(c, f.ID)
			return nil
		}
		err = notFound(t.Key)
	case wire.TypeSignal:
		switch {
		case p == nil || p.pidfd < 0:
			err = notFound(t.Key)
		default:
			err = unix.PidfdSendSignal(p.pidfd, unix.Signal(t.Signal), nil, 0)
			if errors.Is(err, unix.ESRCH) {
				err = notFound(t.Key)
			}
		}
	case wire.TypeResize:
		switch {
		case p == nil || p.exit != nil:
			err = notFound(t.Key)
		case !p.terminal || p.outputs[0].fd < 0:
			err = &wire.Failure{Kind: wire.FailConflict, Message: "the process has no terminal"}
		default:
			err = unix.IoctlSetWinsize(p.outputs[0].fd, unix.TIOCSWINSZ, &unix.Winsize{Row: t.Rows, Col: t.Cols})
		}
	default:
		return errors.New("unknown request")
	}
	if err != nil {
		c.fail(f.ID, err)
	} else {
		c.done(f.ID, nil)
	}
	return nil
}

// welcome makes c the engine that is served.
func (k *Keeper) welcome(c *control, f wire.Frame) error {
	wire.CloseAll(f.Files)
	var h wire.Hello
	if err := wire.Decode(f.Payload, &h); err != nil {
		return err
	}
	if old := k.engine; old != nil && old != c {
		k.engine = nil // or its end would count as the loss of the engine
		old.send(wire.TypeReplaced, 0, nil)
		old.close()
	}
	k.engine = c
	k.loop.cancel(k.idle)
	k.idle = nil
	c.done(f.ID, &wire.Welcome{
		Version: wire.Version, State: wire.StateVersion, Build: k.build, Init: k.initHash, PID: os.Getpid(),
	})
	return nil
}

func (k *Keeper) handleInit(c *control, f wire.Frame) error {
	var hash wire.Text
	if err := wire.Decode(f.Payload, &hash); err != nil || len(f.Files) != 1 {
		wire.CloseAll(f.Files)
		return wire.ErrMalformed
	}
	// A start that is under way may still use the file before it; it is
	// closed when the last reference is dropped.
	k.init, k.initHash = os.NewFile(uintptr(f.Files[0]), "wherry-init"), hash.S
	c.done(f.ID, nil)
	return nil
}

func (k *Keeper) handleAttach(c *control, f wire.Frame) error {
	var t wire.Target
	if err := wire.Decode(f.Payload, &t); err != nil || len(f.Files) != 1 || t.Client == nil {
		wire.CloseAll(f.Files)
		return wire.ErrMalformed
	}
	p := k.procs[t.Key]
	if p == nil || p.reported {
		wire.CloseAll(f.Files)
		c.fail(f.ID, notFound(t.Key))
		return nil
	}
	if err := k.attach(p, t.Client, f.Files[0]); err != nil {
		c.fail(f.ID, err)
		return nil
	}
	c.done(f.ID, nil)
	return nil
}

func (k *Keeper) handleStart(c *control, f wire.Frame) error {
	s := new(wire.Start)
	err := wire.Decode(f.Payload, s)
	if err != nil || s.Extra < 0 || s.Extra+len(s.Attach) != len(f.Files) {
		wire.CloseAll(f.Files)
		return wire.ErrMalformed
	}
	if err := k.startable(s.Key); err != nil {
		wire.CloseAll(f.Files)
		c.fail(f.ID, err)
		return nil
	}
	st, err := k.prepare(s, f.Files)
	if err != nil {
		st.abandon()
		c.fail(f.ID, err)
		return nil
	}
	k.starting[s.Key] = c
	init := k.init
	go func() {
		proc, err := k.start(init, &s.Plan, st.child, st.extra)
		k.loop.post(func() { k.started(c, f.ID, st, proc, err) })
	}()
	// Begin with it on this thread: to wake another one takes longer than all
	// that the loop has to do here.
	runtime.Gosched()
	return nil
}

// startable says why a process with this key cannot be started, and clears
// away one that has ended.
func (k *Keeper) startable(key wire.Key) error {
	if key.Container == "" || strings.ContainsAny(key.Container+key.Exec, "/\x00") || len(key.String()) > 255 {
		return &wire.Failure{Message: "bad key " + key.String()}
	}
	if k.init == nil {
		return &wire.Failure{Kind: wire.FailUnavailable, Message: "the keeper was not given its init program"}
	}
	if k.upgrade != nil {
		return &wire.Failure{Kind: wire.FailUnavailable, Message: "the keeper is being upgraded"}
	}
	_, starting := k.starting[key]
	if p := k.procs[key]; starting || p != nil && !p.reported {
		return &wire.Failure{Kind: wire.FailConflict, Message: "process " + key.String() + " is running already"}
	}
	if k.procs[key] != nil {
		return k.forget(key)
	}
	return nil
}

// started takes over what StartFunc has made.
func (k *Keeper) started(c *control, id uint32, st *starting, proc *sandbox.Process, err error) {
	delete(k.starting, st.req.Key)
	defer k.afterStart()
	if err != nil {
		st.abandon()
		c.fail(id, err)
		return
	}
	p, err := k.supervise(st, proc)
	if err != nil {
		c.fail(id, err)
		return
	}
	if c.fd < 0 {
		// The engine that asked is gone; the present one learns of it.
		p.sendHeld(k.engine)
	} else {
		r := p.record()
		c.done(id, &r, p.files()...)
	}
	p.watch()
}

// afterStart does what had to wait for starts under way.
func (k *Keeper) afterStart() {
	if len(k.starting) == 0 {
		for _, answer := range k.lists {
			answer()
		}
		k.lists = nil
		k.reapOrphans()
	}
	if k.ahead != nil && k.next == nil {
		k.next = k.loop.after(aheadDelay, k.prepareNext)
	}
	k.mayUpgrade()
	if k.engine == nil {
		k.mayEnd()
	}
}

// prepareNext forks what the next process begins as, unless the keeper is about
// to be something else.
func (k *Keeper) prepareNext() {
	k.next = nil
	if k.upgrade != nil || k.engine == nil {
		return
	}
	go func() {
		if err := k.ahead.Prepare(); err != nil {
			k.loop.post(func() { logf("prepare: ", err.Error()) })
		}
	}()
}

// goOn lets a held process go on to its exec.
func (p *process) goOn(c *control, id uint32) {
	k := p.k
	release := p.release
	p.release = nil
	k.starting[p.key] = c // it may start programs that only it reaps
	go func() {
		err := release()
		k.loop.post(func() {
			k.held--
			delete(k.starting, p.key)
			defer k.afterStart()
			if err != nil {
				c.fail(id, err)
			} else {
				c.done(id, nil)
			}
		})
	}()
}

func (p *process) sendHeld(c *control) {
	r := p.record()
	c.send(wire.TypeHeld, 0, &r, p.files()...)
}

// forget drops an exited process. Output that something else still writes is
// read and thrown away, for that must not be stopped by a full or broken pipe.
func (k *Keeper) forget(key wire.Key) error {
	p := k.procs[key]
	if p == nil {
		return notFound(key)
	}
	if !p.reported {
		return &wire.Failure{Kind: wire.FailConflict, Message: "process " + key.String() + " is running"}
	}
	p.closeLog()
	delete(k.procs, key)
	if p.saved {
		if err := os.Remove(p.exitPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
			logf("forget: ", err.Error())
		}
	}
	return nil
}
