package cgroup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/scope"
)

// TestRemoveBusy: a group with a process in it goes behind its remover's back, and
// may be made anew once the process has gone.
func TestRemoveBusy(t *testing.T) {
	both(t, func(t *testing.T, h *Hierarchy) {
		g := fresh(t, h, nil)
		c := spawn(t, g, "wait")
		c.line(t)
		if err := g.Remove(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		if err := h.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("drain of a busy group: %v", err)
		}
		// The same path again: refused while there are processes, then made anew.
		if _, _, err := h.Create(g.Path(), nil); !errdefs.IsAlreadyExists(err) {
			t.Errorf("create over a busy group: %v", err)
		}
		go func() {
			// So that Create finds it busy and has to wait; it succeeds at any rate.
			time.Sleep(50 * time.Millisecond)
			c.Process.Kill()
		}()
		again, _, err := h.Create(g.Path(), nil)
		if err != nil {
			t.Fatal(err)
		}
		discard(t, h, again)
	})
}

// TestRemoveBehind: what was left to go in the background goes with its last
// process, and is on record no longer.
func TestRemoveBehind(t *testing.T) {
	both(t, func(t *testing.T, h *Hierarchy) {
		g := fresh(t, h, nil)
		c := spawn(t, g, "wait")
		c.line(t)
		if err := g.Remove(); err != nil {
			t.Fatal(err)
		}
		if !exists(g.impl.anchor()) {
			t.Error("the group is gone with a process in it")
		}
		c.Process.Kill()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := h.Drain(ctx); err != nil {
			t.Error(err)
		}
		for _, d := range g.impl.dirs() {
			if exists(d) {
				t.Errorf("%s is left", d)
			}
		}
		if r := onRecord(h, g.path); r != nil {
			t.Error("it is on record still")
		}
	})
}

func onRecord(h *Hierarchy, path string) *removal {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pending[path]
}

// TestRemovalLate: a group whose removal is on record, and has not begun, may be
// made anew; the removal then leaves it alone.
func TestRemovalLate(t *testing.T) {
	both(t, func(t *testing.T, h *Hierarchy) {
		old := fresh(t, h, &Resources{Devices: dockerDevices()})
		inner := filepath.Join(old.impl.anchor(), "inner")
		if err := os.Mkdir(inner, 0o755); err != nil {
			t.Fatal(err)
		}
		first, second := old.Removal(), old.Removal()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := h.Drain(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("drain before the removal: %v", err)
		}
		again, _, err := h.Create(old.Path(), &Resources{Devices: dockerDevices()})
		if err != nil {
			t.Fatal(err)
		}
		if exists(inner) {
			t.Error("the group made anew is the old one")
		}
		for _, remove := range []func() error{first, second} {
			if err := remove(); err != nil {
				t.Error(err)
			}
		}
		spawn(t, again, "wait").line(t) // where it cannot join, it says so
		for _, c := range again.Controllers() {
			if !exists(c.Dir) {
				t.Errorf("%s is gone", c.Dir)
			}
		}
	})
}

// TestVacate: after it the path is somebody else's, whatever was to be removed.
func TestVacate(t *testing.T) {
	both(t, func(t *testing.T, h *Hierarchy) {
		g := fresh(t, h, nil)
		if err := h.Vacate(g.Path()); err != nil || !exists(g.impl.anchor()) {
			t.Fatalf("a group that is not to be removed: %v", err)
		}
		remove := g.Removal()
		if err := h.Vacate(g.Path()); err != nil || exists(g.impl.anchor()) {
			t.Errorf("the group that was to be removed is there still: %v", err)
		}
		if err := os.Mkdir(g.impl.anchor(), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := remove(); err != nil || !exists(g.impl.anchor()) {
			t.Errorf("the removal took what somebody else made: %v", err)
		}
	})
}

// TestRemovalAgain: a removal that was taken over leaves alone the one that was put
// on record for the group made anew.
func TestRemovalAgain(t *testing.T) {
	both(t, func(t *testing.T, h *Hierarchy) {
		g := fresh(t, h, nil)
		first := g.Removal()
		again, _, err := h.Create(g.Path(), nil)
		if err != nil {
			t.Fatal(err)
		}
		second := again.Removal()
		if err := first(); err != nil {
			t.Error(err)
		}
		if onRecord(h, g.path) == nil {
			t.Error("the second removal is off the record")
		}
		third, _, err := h.Create(g.Path(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := second(); err != nil || !exists(third.impl.anchor()) {
			t.Errorf("the group made anew is gone: %v", err)
		}
	})
}

// TestRemovalFails: what cannot be removed is told once: to who removes it, or,
// when that has gone on, by Drain.
func TestRemovalFails(t *testing.T) {
	both(t, func(t *testing.T, h *Hierarchy) {
		file := filepath.Join(t.TempDir(), "no directory")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		stuck := func() *Group {
			g, err := h.group(parentOfTests + "/stuck")
			if err != nil {
				t.Fatal(err)
			}
			switch impl := g.impl.(type) {
			case *groupV1:
				impl.own["somewhere"] = file
			case *groupV2:
				impl.dir = file
			}
			return g
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := stuck().Remove(); !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("removed: %v", err)
		}
		if err := h.Drain(ctx); err != nil {
			t.Errorf("told a second time: %v", err)
		}
		g := stuck()
		_ = g.Removal()
		onRecord(h, g.path).attempt(removeMost) // as it goes on behind
		if err := h.Drain(ctx); !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("failed behind: %v", err)
		}
		h.vacate(g.path)
	})
}

// TestRemovalSettles: the process that keeps a scope alive is no obstacle.
func TestRemovalSettles(t *testing.T) {
	both(t, func(t *testing.T, h *Hierarchy) {
		g := fresh(t, h, nil)
		holder, err := scope.NewHolder()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(holder.Leave)
		if err := g.Add(holder.PID); err != nil {
			t.Fatal(err)
		}
		h.mu.Lock()
		h.holders[g.path] = holder
		h.mu.Unlock()
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		if err := unix.Kill(holder.PID, 0); err != unix.ESRCH {
			t.Errorf("the holder is there still: %v", err)
		}
	})
}
