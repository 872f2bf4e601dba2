package keeper

import (
	"errors"
	"math"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Main is the program. Its arguments are its own name, the directory, what to
// tell engines as the name of this build, and either "serve" and the
// descriptor of the first engine's connection, or "resume" and that of the
// state that was handed on. It returns the exit code.
func Main(args []string, start StartFunc, ahead Ahead) int {
	// The live heap is about 1 MB: collecting often is cheap, and memory that
	// is not in use is worth more elsewhere.
	debug.SetGCPercent(25)
	debug.SetMemoryLimit(64 << 20)
	runtime.GOMAXPROCS(min(4, runtime.NumCPU()))
	k, err := setUp(args, start, ahead)
	if err == nil {
		err = k.serve()
	}
	if err != nil {
		_, _ = os.Stderr.WriteString("wherry-keeper: " + err.Error() + "\n")
		return 1
	}
	return 0
}

func setUp(args []string, start StartFunc, ahead Ahead) (*Keeper, error) {
	if len(args) != 5 {
		return nil, errors.New("this program is started by wherryd")
	}
	fd, err := strconv.Atoi(args[4])
	if err != nil {
		return nil, err
	}
	// What the engine was started with must not leak into containers.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		unix.CloseOnExec(fd)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, os.NewSyscallError("prctl", err)
	}
	// Executed from a memfd the name would be a number.
	if err := os.WriteFile("/proc/self/comm", []byte("wherry-keeper"), 0); err != nil {
		return nil, err
	}
	k, err := newKeeper(args[1], args[2], start, ahead)
	if err != nil {
		return nil, err
	}
	k.handleSignals()
	if args[3] == "resume" {
		if err := k.resume(fd); err != nil {
			return nil, err
		}
	} else {
		if err := k.open(); err != nil {
			return nil, err
		}
		if err := k.loadExits(); err != nil {
			return nil, err
		}
		if err := k.newControl(fd); err != nil {
			return nil, err
		}
		// The engine may never greet, so look once whether there is anything to do.
		k.idle = k.loop.after(10*time.Second, func() {
			k.idle = nil
			k.mayEnd()
		})
	}
	k.reapOrphans()
	return k, nil
}

// handleSignals takes note of children, and keeps the keeper alive when its
// process group or cgroup is told to end: it ends by itself when nothing needs
// it. The signals must not be ignored, for processes would inherit that.
func (k *Keeper) handleSignals() {
	ch := make(chan os.Signal, 16)
	signal.Notify(ch, unix.SIGCHLD, unix.SIGHUP, unix.SIGINT, unix.SIGTERM)
	go func() {
		for s := range ch {
			if s == unix.SIGCHLD {
				k.loop.post(k.reapOrphans)
			}
		}
	}()
}
