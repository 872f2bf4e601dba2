package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/internal/config"
)

func TestPidfileKeepsASecondOneOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "wherry.pid")
	unlock, err := writePidfile(path)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); string(data) != strconv.Itoa(os.Getpid()) || err != nil {
		t.Errorf("%q %v", data, err)
	}
	if _, err := writePidfile(path); err == nil || !strings.Contains(err.Error(), "process with PID "+strconv.Itoa(os.Getpid())+" is still running") {
		t.Errorf("%v", err)
	}
	unlock()
	if _, err := os.Lstat(path); err == nil {
		t.Error("the file was left")
	}

	// What kill -9 leaves: a file, and no lock.
	if err := os.WriteFile(path, []byte("1234567 of an earlier one"), 0o644); err != nil {
		t.Fatal(err)
	}
	unlock, err = writePidfile(path)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); string(data) != strconv.Itoa(os.Getpid()) || err != nil {
		t.Errorf("%q %v", data, err)
	}
	unlock()
	if unlock, err := writePidfile(""); err != nil {
		t.Error(err)
	} else {
		unlock()
	}
}

func TestLogLevelChangesWhileInUse(t *testing.T) {
	old := slog.Default()
	defer slog.SetDefault(old)
	var out bytes.Buffer
	c := config.New(func(string) string { return "" })
	c.LogFormat = "json"
	level := logTo(&out, c)
	slog.Debug("hidden")
	c.Debug = true
	level.Set(levelOf(c))
	slog.Debug("shown")
	if s := out.String(); strings.Contains(s, "hidden") || !strings.Contains(s, `"msg":"shown"`) {
		t.Error(s)
	}
	for word, want := range map[string]slog.Level{"info": slog.LevelInfo, "warn": slog.LevelWarn, "fatal": slog.LevelError, "debug": slog.LevelDebug} {
		if got := levelOf(&config.Config{LogLevel: word}); got != want {
			t.Errorf("%s: %v", word, got)
		}
	}
}

func TestStackDumpHasEveryGoroutine(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	for range 300 {
		go func() { <-stop }()
	}
	path, err := dumpStacks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if n := bytes.Count(data, []byte("\n\ngoroutine ")); n < 300 || err != nil {
		t.Errorf("%d goroutines, %v", n, err)
	}
}

func TestReloadBeforeTheStart(t *testing.T) {
	if err := new(reloader).reload(); err == nil {
		t.Error("reloaded an engine that is not there")
	}
}
