// Package kmsg owns the reading of the kernel's log, /dev/kmsg.
package kmsg

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// OOM is a kill for want of memory.
type OOM struct {
	Process string
	PID     int
	RSS     int64 // bytes
	Global  bool  // the machine's memory was at its end, not a group's limit
}

// LastOOM finds the newest kill of a process in the control group that the
// path ends in. It is false when the log has none, or cannot be read.
func LastOOM(group string) (OOM, bool) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return OOM{}, false
	}
	defer unix.Close(fd)
	var s scanner
	s.group = group
	buf := make([]byte, 8192) // a record is never longer
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EPIPE) || errors.Is(err, unix.EINTR): // overtaken by the log
			continue
		case err != nil:
			return s.found, s.ok // EAGAIN: its end
		}
		// prefix;text, then lines that begin with a space
		_, text, _ := strings.Cut(string(buf[:n]), ";")
		text, _, _ = strings.Cut(text, "\n")
		s.line(text)
	}
}

// scanner puts the two lines of a kill together.
type scanner struct {
	group string
	found OOM
	ok    bool
}

func (s *scanner) line(text string) {
	if rest, ok := strings.CutPrefix(text, "oom-kill:"); ok {
		f := map[string]string{}
		for _, kv := range strings.Split(rest, ",") {
			if k, v, ok := strings.Cut(kv, "="); ok {
				f[k] = v
			}
		}
		if !strings.HasSuffix(f["task_memcg"], s.group) {
			return
		}
		pid, _ := strconv.Atoi(f["pid"])
		_, global := f["global_oom"]
		s.found = OOM{Process: f["task"], PID: pid, Global: global || strings.Contains(rest, ",global_oom,")}
		s.ok = true
		return
	}
	_, rest, ok := strings.Cut(text, "Killed process ")
	if !ok || !s.ok || !strings.HasPrefix(rest, strconv.Itoa(s.found.PID)+" ") {
		return
	}
	for _, field := range strings.FieldsFunc(rest, func(r rune) bool { return r == ',' || r == ' ' }) {
		for _, name := range []string{"anon-rss:", "file-rss:", "shmem-rss:"} {
			if v, ok := strings.CutPrefix(field, name); ok {
				kb, _ := strconv.ParseInt(strings.TrimSuffix(v, "kB"), 10, 64)
				s.found.RSS += kb << 10
			}
		}
	}
}
