package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// write gives the kernel a value. Errors name the file and the value. It avoids
// package os: on these files os tries in vain to register with the poller.
func write(file, value string) error {
	var fd int
	var err error
	for {
		if fd, err = unix.Open(file, unix.O_WRONLY|unix.O_CLOEXEC, 0); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	defer unix.Close(fd)
	for {
		_, err = unix.Write(fd, []byte(value))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write %q to %s: %w", value, file, err)
		}
		return nil
	}
}

func writeInt[T int64 | uint64 | int](file string, v T) error { return write(file, fmt.Sprint(v)) }

// slurp is os.ReadFile for the small files of the kernel, with a third of the
// calls: many of them are read for each sample of many groups.
func slurp(file string) ([]byte, error) {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: file, Err: err}
	}
	defer unix.Close(fd)
	return reread(fd, file)
}

// reread reads an open file from its beginning.
func reread(fd int, file string) ([]byte, error) {
	var buf [4096]byte
	var out []byte
	for {
		n, err := unix.Pread(fd, buf[:], int64(len(out)))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: file, Err: err}
		case n == 0:
			return out, nil
		default:
			out = append(out, buf[:n]...)
		}
	}
}

// read returns a file's text without the last newline.
func read(file string) (string, error) {
	b, err := slurp(file)
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(b), "\n"), nil
}

// readUint reads one number; "max" and "-1" are the largest.
func readUint(file string) (uint64, error) {
	s, err := read(file)
	if err != nil {
		return 0, err
	}
	return parseUint(s, file)
}

func parseUint(s, file string) (uint64, error) {
	if s == "max" || s == "-1" {
		return unlimited, nil
	}
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return v, nil
}

// unlimited stands for no limit in Stats.
const unlimited = ^uint64(0)

// pairs reads lines of "key value".
func pairs(file string) (map[string]uint64, error) {
	b, err := slurp(file)
	if err != nil {
		return nil, err
	}
	return parsePairs(b), nil
}

func parsePairs(b []byte) map[string]uint64 {
	out := make(map[string]uint64, bytes.Count(b, []byte("\n")))
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseUint(value, 10, 64); ok && err == nil {
			out[key] = v
		}
	}
	return out
}

// pids reads a cgroup.procs or tasks file.
func pids(file string) ([]int, error) {
	b, err := slurp(file)
	if err != nil {
		return nil, err
	}
	var out []int
	for f := range strings.FieldsSeq(string(b)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if pid > 0 { // 0: a process outside our pid namespace
			out = append(out, pid)
		}
	}
	return out, nil
}

func exists(file string) bool {
	return unix.Access(file, unix.F_OK) == nil
}

// mkdirs makes dir and what is missing above it. made is called for each
// directory made on the way, from the top, but not for dir itself; those are
// remembered for Clean. Called without m.mu.
func (m *machine) mkdirs(dir string, made func(dir string) error) error {
	err := unix.Mkdir(dir, 0o755)
	if !errors.Is(err, unix.ENOENT) {
		if err != nil {
			return &os.PathError{Op: "mkdir", Path: dir, Err: err}
		}
		return nil
	}
	parent := filepath.Dir(dir)
	err = m.mkdirs(parent, made)
	if err == nil {
		m.remember(parent)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if made != nil {
		if err := made(parent); err != nil {
			return err
		}
	}
	if err := unix.Mkdir(dir, 0o755); err != nil {
		return &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	return nil
}

func (m *machine) remember(dir string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.made[dir] = struct{}{}
}

// below lists dir and all groups in it, deepest first.
func below(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		sub, err := below(filepath.Join(dir, e.Name()))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		out = append(out, sub...)
	}
	return append(out, dir), nil
}

// removeTree removes dir and the groups in it. It is unix.EBUSY while there are
// processes, and nil when dir is not there.
func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EBUSY) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	all, err := below(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, d := range all {
		if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
			return &os.PathError{Op: "rmdir", Path: d, Err: err}
		}
	}
	return nil
}
