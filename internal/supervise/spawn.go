package supervise

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxLog is the size at which the keeper's own log is begun anew.
const maxLog = 1 << 20

// spawn starts a keeper that outlives this process, and returns a connection
// to it.
func (c *Client) spawn() (*net.UnixConn, error) {
	program, err := sealed("wherry-keeper", c.cfg.Keeper)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "keeper"), os.NewFile(uintptr(pair[1]), "engine")
	defer ours.Close()
	defer theirs.Close()
	stderr, err := openLog(filepath.Join(c.cfg.Dir, "keeper.log"))
	if err != nil {
		return nil, fmt.Errorf("log of the keeper: %w", err)
	}
	defer stderr.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	// The child sees this number until its exec; it must not be one of the first.
	exe, err := unix.FcntlInt(program.Fd(), unix.F_DUPFD_CLOEXEC, 64)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	defer unix.Close(exe)
	pid, _, err := syscall.StartProcess("/proc/self/fd/"+strconv.Itoa(exe),
		[]string{"wherry-keeper", c.cfg.Dir, c.keeperSum, "serve", "3"},
		&syscall.ProcAttr{
			Dir:   "/",
			Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Files: []uintptr{null.Fd(), null.Fd(), stderr.Fd(), theirs.Fd()},
			Sys:   &syscall.SysProcAttr{Setsid: true},
		})
	if err != nil {
		return nil, fmt.Errorf("start the keeper: %w", err)
	}
	proc, err := os.FindProcess(pid)
	if err != nil {
		return nil, fmt.Errorf("start the keeper: %w", err)
	}
	go func() { _, _ = proc.Wait() }() // only so that no zombie is left
	procs := c.cfg.CgroupProcs
	if procs == nil {
		procs = serviceEscape()
	}
	for _, path := range procs {
		if err := os.WriteFile(path, []byte(strconv.Itoa(pid)), 0); err != nil {
			c.cfg.Logf("the keeper stays in this cgroup: %v", err)
		}
	}
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("start the keeper: %w", err)
	}
	return conn.(*net.UnixConn), nil
}

func openLog(path string) (*os.File, error) {
	flags := os.O_WRONLY | os.O_CREATE | os.O_APPEND
	if st, err := os.Stat(path); err == nil && st.Size() > maxLog {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(path, flags, 0o600)
}

// keeperGroup is the control group of keepers that services start.
const keeperGroup = "wherry-keeper"

// serviceEscape makes a group beside those that a service manager stops, and
// returns its cgroup.procs. It returns nil when this process is in the root
// group, or where such a group cannot be made: then the keeper is stopped with
// the service unless that has KillMode=process.
func serviceEscape() []string {
	for _, dir := range besideService() {
		if err := os.Mkdir(dir, 0o755); err == nil || errors.Is(err, fs.ErrExist) {
			return []string{filepath.Join(dir, "cgroup.procs")}
		}
	}
	return nil
}

// LeaveNothing removes the group of a keeper that has ended with its engine.
// Another engine's keeper may be in it; then it stays.
func LeaveNothing() {
	for _, dir := range besideService() {
		// Nobody is told when the last process of a group is gone.
		for end := time.Now().Add(500 * time.Millisecond); errors.Is(os.Remove(dir), unix.EBUSY) && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// besideService are the places for keeperGroup: none in the root group.
func besideService() (dirs []string) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || f[2] == "/" {
			continue
		}
		var roots []string
		switch {
		case f[1] == "name=systemd":
			roots = []string{"/sys/fs/cgroup/systemd"}
		case f[0] == "0":
			roots = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}
		}
		for _, root := range roots {
			if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err == nil {
				dirs = append(dirs, filepath.Join(root, keeperGroup))
			}
		}
	}
	return dirs
}
