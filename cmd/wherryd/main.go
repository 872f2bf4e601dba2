// Command wherryd is the engine: it takes dockerd's flags and answers the
// Docker Engine API.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/config"
	"github.com/wherry-engine/wherry/internal/daemon"
)

// Set by the linker.
var (
	version = "dev"
	commit  = "unknown"
)

// errStopped is the cause that ends the engine.
var errStopped = errors.New("the engine was told to stop")

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	c, err := config.Parse(args, os.Getenv)
	switch {
	case err != nil:
		return fmt.Errorf("%w\nSee 'wherryd --help'", err)
	case c.Help:
		fmt.Println(config.Usage())
		return nil
	case c.Version:
		fmt.Printf("Wherry version %s, build %s\n", version, commit)
		return nil
	case os.Geteuid() != 0 && !c.Validate:
		return errors.New("wherryd needs to be started with root privileges")
	}
	level := logTo(os.Stderr, c)
	for _, w := range c.Warnings {
		slog.Warn(w) //nolint:gosec // what the user wrote, quoted by the handler
	}
	if c.Validate {
		fmt.Fprintln(os.Stderr, "configuration OK") // where dockerd says it
		return nil
	}
	unix.Umask(0o022)
	if err := applyProcess(c); err != nil {
		return err
	}
	unlock, err := writePidfile(c.Pidfile)
	if err != nil {
		return err
	}
	defer unlock()

	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	r := &reloader{args: args, level: level}
	go handleSignals(func() { stop(errStopped) }, r, c.ExecRoot)
	engine, err := daemon.New(ctx, c, daemon.Build{Version: version, Commit: commit})
	switch {
	case err != nil && ctx.Err() != nil: // it was told to end before it was ready
		slog.Info("stopped while starting", "at", err)
		notify("STOPPING=1")
		return nil
	case err != nil:
		return fmt.Errorf("failed to start daemon: %w", err)
	}
	r.engine.Store(engine)
	notify("READY=1")
	err = engine.Run(ctx)
	notify("STOPPING=1")
	engine.Close(context.Background())
	return err
}
