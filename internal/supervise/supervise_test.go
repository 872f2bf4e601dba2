package supervise

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/wherry-engine/wherry/internal/linux/pidfd"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
)

func TestExitCodes(t *testing.T) {
	e := newEngine(t)
	for _, tc := range []struct {
		name, script string
		code         int
		signal       syscall.Signal
	}{
		{"zero", "exit 0", 0, 0},
		{"three", "exit 3", 3, 0},
		{"killed", "kill -9 $$", 137, syscall.SIGKILL},
		{"terminated", "kill -15 $$", 143, syscall.SIGTERM},
	} {
		t.Run(tc.name, func(t *testing.T) {
			key := Key{Container: tc.name}
			e.start(&StartRequest{Key: key, Plan: sh(tc.script)})
			x := wait[Exit](e, key)
			if x.Code != tc.code || x.Signal != tc.signal || x.Unknown != "" {
				t.Errorf("%+v, want code %d signal %d", x, tc.code, tc.signal)
			}
			if err := e.Forget(t.Context(), key); err != nil {
				t.Error(err)
			}
			if err := e.Forget(t.Context(), key); !errors.Is(err, errdefs.ErrNotFound) {
				t.Errorf("second Forget: %v", err)
			}
		})
	}
}

func TestStartErrorTravels(t *testing.T) {
	e := newEngine(t)
	_, err := e.Start(t.Context(), &StartRequest{Key: Key{Container: "x"}, Plan: argv("/nope")})
	var s *sandbox.StartError
	if !errors.As(err, &s) || s.Errno != syscall.ENOENT || !strings.Contains(s.Message, "/nope") {
		t.Errorf("got %v", err)
	}
	e.start(&StartRequest{Key: Key{Container: "x"}, Plan: sh("exit 0")})
	wait[Exit](e, Key{Container: "x"})
}

func TestSignalAndConflict(t *testing.T) {
	e := newEngine(t)
	key := Key{Container: "c", Exec: "e"}
	e.start(&StartRequest{Key: key, Plan: argv("/bin/sleep", "1000")})
	if _, err := e.Start(t.Context(), &StartRequest{Key: key, Plan: sh("exit 0")}); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("second start: %v", err)
	}
	if err := e.Forget(t.Context(), key); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("forget of a running process: %v", err)
	}
	if err := e.Signal(t.Context(), key, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if x := wait[Exit](e, key); x.Code != 143 {
		t.Errorf("%+v", x)
	}
	if err := e.Signal(t.Context(), key, syscall.SIGTERM); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("signal after the exit: %v", err)
	}
	if err := e.Signal(t.Context(), Key{Container: "other"}, 0); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("signal to an unknown process: %v", err)
	}
	// The key may be used again without Forget.
	e.start(&StartRequest{Key: key, Plan: sh("exit 5")})
	if x := wait[Exit](e, key); x.Code != 5 {
		t.Errorf("%+v", x)
	}
}

// TestWitness: the pidfd of a process is given for its own number and while it
// runs, and a plan that names processes is not started without.
func TestWitness(t *testing.T) {
	e := newEngine(t)
	key := Key{Container: "c"}
	s := e.start(&StartRequest{Key: key, Plan: argv("/bin/sleep", "1000")})
	if _, err := e.Witness(key, s.PID+1); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("of another number: %v", err)
	}
	w, err := e.Witness(key, s.PID)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := pidfd.Signal(w, 0); err != nil {
		t.Error(err)
	}
	joining := sh("true")
	joining.PIDNamespace = "/proc/1/ns/pid"
	if _, err := e.Start(t.Context(), &StartRequest{Key: Key{Container: "d"}, Plan: joining}); err == nil {
		t.Error("started without a witness")
	}
	e.start(&StartRequest{Key: Key{Container: "d"}, Plan: joining, Witnesses: []*os.File{w}})
	wait[Exit](e, Key{Container: "d"})
	if err := e.Signal(t.Context(), key, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	wait[Exit](e, key)
	if err := pidfd.Signal(w, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("it has ended and is reaped: %v", err)
	}
	if _, err := e.Witness(key, s.PID); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("of one that has ended: %v", err)
	}
}
