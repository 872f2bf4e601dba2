package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/wherry-engine/wherry/internal/config"
)

// logTo sets the default logger; the level can be changed while it is in use.
func logTo(w io.Writer, c *config.Config) *slog.LevelVar {
	level := new(slog.LevelVar)
	level.Set(levelOf(c))
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		slog.SetDefault(slog.New(slog.NewJSONHandler(w, o)))
	} else {
		slog.SetDefault(slog.New(slog.NewTextHandler(w, o)))
	}
	return level
}

func levelOf(c *config.Config) slog.Level {
	switch {
	case c.Debug, c.LogLevel == "debug", c.LogLevel == "trace":
		return slog.LevelDebug
	case c.LogLevel == "warn":
		return slog.LevelWarn
	case c.LogLevel == "error", c.LogLevel == "fatal", c.LogLevel == "panic":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// applyProcess sets what belongs to the process itself.
func applyProcess(c *config.Config) error {
	if c.OOMScoreAdjust == 0 {
		return nil
	}
	err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(c.OOMScoreAdjust)), 0)
	if errors.Is(err, fs.ErrPermission) {
		slog.Warn("the kernel refuses to lower the oom score", "oom-score-adjust", c.OOMScoreAdjust)
		return nil
	}
	return err
}

// writePidfile takes the file for this process; its lock, not its content, is
// what keeps a second wherryd out. "" is no file.
func writePidfile(path string) (unlock func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, fmt.Errorf("failed to write pid file: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid, _ := io.ReadAll(io.LimitReader(f, 20)) // only for the message
		f.Close()
		return nil, fmt.Errorf("failed to start daemon, ensure wherryd is not running or delete %s: process with PID %s is still running",
			path, strings.TrimSpace(string(pid)))
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("failed to write pid file: %w", err)
	}
	return func() {
		os.Remove(path)
		f.Close()
	}, nil
}
