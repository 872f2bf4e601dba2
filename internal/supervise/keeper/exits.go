package keeper

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/wherry-engine/wherry/internal/supervise/wire"
)

func (p *process) exitPath() string {
	return filepath.Join(p.k.dir, "exits", p.key.String())
}

// saveExit keeps the end of a process for an engine yet to come. Nothing is
// synced: a reboot ends everything else that it could matter to.
func (p *process) saveExit() {
	if p.saved || p.k.procs[p.key] != p {
		return
	}
	r := p.record()
	path := p.exitPath()
	err := os.WriteFile(path+"~", wire.Append(nil, &r), 0o600)
	if err == nil {
		err = os.Rename(path+"~", path)
	}
	if err != nil {
		logf("keep the exit of ", p.key.String(), ": ", err.Error())
		return
	}
	p.saved = true
}

// loadExits reads what a keeper before this one has saved.
func (k *Keeper) loadExits() error {
	dir := filepath.Join(k.dir, "exits")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		var r wire.Process
		if err := wire.Decode(b, &r); err != nil || r.Exited == nil || r.Key.String() != name {
			logf("exits/", name, " is damaged; removed")
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return err
			}
			continue
		}
		r.Has = 0
		p := k.processOf(&r, nil)
		p.saved = true
		k.procs[p.key] = p
	}
	return nil
}

// processOf makes a process of what is known of it; files are its descriptors
// as Has says.
func (k *Keeper) processOf(r *wire.Process, files []int) *process {
	p := &process{
		k: k, key: r.Key, pid: r.PID, pidfd: -1, at: r.At, terminal: r.Terminal, stdinOnce: r.StdinOnce,
		killOnDisconnect: r.KillOnDisconnect, target: r.Log, exit: r.Exited, reported: r.Exited != nil,
	}
	d := [4]int{-1, -1, -1, -1}
	for bit := range d {
		if r.Has&(1<<bit) != 0 && len(files) > 0 {
			d[bit], files = files[0], files[1:]
		}
	}
	wire.CloseAll(files)
	p.pidfd = d[0]
	p.setStreams(d[1], d[2], d[3])
	return p
}

// handleHandOver takes over a process whose keeper has died.
func (k *Keeper) handleHandOver(c *control, f wire.Frame) error {
	var r wire.Process
	if err := wire.Decode(f.Payload, &r); err != nil {
		wire.CloseAll(f.Files)
		return err
	}
	if k.procs[r.Key] != nil {
		wire.CloseAll(f.Files)
		c.fail(f.ID, &wire.Failure{Kind: wire.FailConflict, Message: "process " + r.Key.String() + " is known"})
		return nil
	}
	p := k.processOf(&r, f.Files)
	p.foreign = true
	k.procs[p.key] = p
	c.done(f.ID, nil)
	if p.reported {
		return nil
	}
	p.openLog()
	p.watch()
	if p.pidfd < 0 { // the engine had lost it
		p.lost(errNoExit)
	}
	return nil
}
