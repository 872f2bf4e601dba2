package supervise

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

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
