package pidfd

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWait(t *testing.T) {
	start := func(args ...string) (*os.Process, *os.File) {
		t.Helper()
		p, err := os.StartProcess("/bin/sh", args, &os.ProcAttr{})
		if err != nil {
			t.Fatal(err)
		}
		f, err := Open(p.Pid)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return p, f
	}
	_, f := start("sh", "-c", "exit 7")
	if e, ended, err := Wait(f, false); err != nil || !ended || e.Status() != 7 {
		t.Fatal(e, ended, err)
	}
	if err := Signal(f, unix.SIGTERM); !errors.Is(err, unix.ESRCH) {
		t.Fatal("a signal to a reaped process:", err)
	}
	_, f = start("sh", "-c", "exec sleep 100")
	if _, ended, err := Wait(f, true); err != nil || ended {
		t.Fatal("poll of a running process:", ended, err)
	}
	if err := Signal(f, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e, ended, err := Wait(f, false); err != nil || !ended || e.Signal != unix.SIGKILL || e.Status() != 137 {
		t.Fatal(e, ended, err)
	}
}
