package cgroup

import (
	"github.com/wherry-engine/wherry/internal/linux/scope"
)

// startUnit makes the scope of g. A scope needs a process to begin with: one of
// ours waits in it until Settle.
func (g *Group) startUnit(r *Resources) error {
	accounting := "IOAccounting"
	if g.h.version == 1 {
		accounting = "BlockIOAccounting"
	}
	props, err := scope.Limits(g.h.version, r)
	if err != nil {
		return err
	}
	holder, err := scope.NewHolder()
	if err != nil {
		return err
	}
	if err := g.h.systemd.Start(g.unit, holder.PID, append(props, scope.Property(accounting, true))); err != nil {
		holder.Leave()
		return err
	}
	g.h.mu.Lock()
	g.h.holders[g.path] = holder
	g.h.mu.Unlock()
	switch i := g.impl.(type) { // systemd made its directories
	case *groupV1:
		i.unit = true
	case *groupV2:
		i.unit = true
	}
	return nil
}

// unitGone lets systemd forget the scope, which it stops by itself when the
// last process has left.
func (g *Group) unitGone() {
	if g.unit.Name == "" {
		return
	}
	g.Settle()
	g.h.systemd.Stop(g.unit)
}
