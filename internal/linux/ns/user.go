package ns

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
)

// NewUser makes a user namespace with these mappings that lives as long as the
// descriptor. The process that it takes never runs a program: it is stopped
// before its first instruction, asked for its namespace, and ended.
func NewUser(uids, gids []syscall.SysProcIDMap) (*os.File, error) {
	runtime.LockOSThread() // the thread that forks is the one that traces
	defer runtime.UnlockOSThread()
	p, err := os.StartProcess("/proc/self/exe", []string{"user-namespace"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: uids, GidMappings: gids, GidMappingsEnableSetgroups: true,
		Ptrace: true, Pdeathsig: syscall.SIGKILL,
	}})
	if err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	f, err := os.Open(Path(p.Pid, "user"))
	kill := p.Kill()
	if _, wait := p.Wait(); err == nil && wait != nil {
		err = wait
	}
	if err == nil {
		err = kill
	}
	if err != nil && f != nil {
		f.Close()
	}
	return f, err
}
