package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/config"
	"github.com/wherry-engine/wherry/internal/daemon"
)

// patience is how many SIGTERM or SIGINT it takes to end without a clean-up.
const patience = 3

// handleSignals serves signals until the process ends.
func handleSignals(stop func(), r *reloader, dumps string) {
	ch := make(chan os.Signal, 8)
	signal.Notify(ch, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1)
	signal.Ignore(syscall.SIGPIPE)
	asked := 0
	for s := range ch {
		switch s {
		case syscall.SIGHUP:
			notify(reloading())
			if err := r.reload(); err != nil {
				slog.Error("error reloading configuration", "error", err)
			}
			notify("READY=1")
		case syscall.SIGUSR1:
			path, err := dumpStacks(dumps)
			if err != nil {
				slog.Error("cannot write goroutine stacks", "error", err)
				continue
			}
			slog.Info("goroutine stacks written to " + path)
		default:
			slog.Info("processing signal '" + s.String() + "'")
			if asked++; asked == patience {
				slog.Warn("forcing shutdown without cleanup")
				os.Exit(128 + int(s.(syscall.Signal)))
			}
			stop()
		}
	}
}

// reloader applies the configuration anew at SIGHUP.
type reloader struct {
	args   []string
	level  *slog.LevelVar
	engine atomic.Pointer[daemon.System] // nil until it has started
}

func (r *reloader) reload() error {
	engine := r.engine.Load()
	if engine == nil {
		return errors.New("wherryd has not started yet")
	}
	next, err := config.Parse(r.args, os.Getenv)
	if err != nil {
		return err
	}
	if err := engine.Reload(next); err != nil {
		return err
	}
	r.level.Set(levelOf(next))
	for _, w := range next.Warnings {
		slog.Warn(w)
	}
	return nil
}

func dumpStacks(dir string) (string, error) {
	buf := make([]byte, 64<<10)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	path := filepath.Join(dir, "goroutine-stacks-"+strings.ReplaceAll(time.Now().Format(time.RFC3339Nano), ":", "")+".log")
	return path, os.WriteFile(path, buf, 0o600)
}

// reloading is what systemd wants to hear: with the time, so that it can tell
// this reload from an earlier one.
func reloading() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return "RELOADING=1"
	}
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000)
}

// notify tells systemd, where it started this program with Type=notify.
func notify(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		slog.Debug("sd_notify", "error", err)
	}
}
