// Package ns owns the names, flags and joining of Linux namespaces.
package ns

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Flag gives the CLONE_NEW* bit of a namespace by its file name in
// /proc/<pid>/ns, or 0.
func Flag(name string) uintptr {
	switch name {
	case "mnt":
		return unix.CLONE_NEWNS
	case "pid":
		return unix.CLONE_NEWPID
	case "ipc":
		return unix.CLONE_NEWIPC
	case "uts":
		return unix.CLONE_NEWUTS
	case "net":
		return unix.CLONE_NEWNET
	case "cgroup":
		return unix.CLONE_NEWCGROUP
	case "user":
		return unix.CLONE_NEWUSER
	case "time":
		return unix.CLONE_NEWTIME
	}
	return 0
}

// Path is the file of a process's namespace.
func Path(pid int, name string) string {
	return "/proc/" + strconv.Itoa(pid) + "/ns/" + name
}

// Own tells whether a process is in the caller's own namespace of that name.
func Own(pid int, name string) (bool, error) {
	theirs, err := os.Readlink(Path(pid, name))
	if err != nil {
		return false, err
	}
	ours, err := os.Readlink("/proc/self/ns/" + name)
	return ours == theirs, err
}

// Mappings reads uid_map or gid_map of a process: first id inside, first id
// outside, count.
func Mappings(pid int, file string) ([][3]uint32, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + file)
	if err != nil {
		return nil, err
	}
	var out [][3]uint32
	for line := range strings.Lines(string(b)) {
		var r [3]uint32
		if _, err := fmt.Sscan(line, &r[0], &r[1], &r[2]); err != nil {
			return nil, fmt.Errorf("%s of process %d: %w", file, pid, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// BornIn calls fork on a thread whose children are born in the pid namespace
// at path. The thread is given back only when it could be restored.
func BornIn(path string, fork func() error) error {
	target, err := os.Open(path)
	if err != nil {
		return err
	}
	defer target.Close()
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		self, err := os.Open("/proc/thread-self/ns/pid")
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		defer self.Close()
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWPID); err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("join %s: %w", path, err)
			return
		}
		err = fork()
		// A thread left in the other namespace could not start new threads; it
		// ends with this goroutine when it cannot be brought back.
		if unix.Setns(int(self.Fd()), unix.CLONE_NEWPID) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}
