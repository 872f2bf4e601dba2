package sandbox

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/ns"
)

// binaryPath names init's binary by the descriptor the child has it at, so
// that neither the caller's numbers nor its /proc matter.
const binaryPath = "/proc/self/fd/4"

// environment of init itself; the user's travels in the program. A process
// that lives a millisecond neither collects garbage nor needs many threads, and
// no thread is to be interrupted that has stayed behind.
func environment() []string {
	return []string{"GOGC=off", "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1"}
}

// forkInit starts init with files as its descriptors and these arguments, the
// name first; only a process of the caller's own namespaces can have more than that.
// The witnesses are asked when the processes that the plan names are in hand.
func forkInit(p *Plan, files []uintptr, witnesses []*os.File, argv ...string) (*Process, error) {
	pidFD := -1
	sys := &syscall.SysProcAttr{Cloneflags: p.CloneFlags, PidFD: &pidFD, CgroupFD: -1}
	if p.CloneFlags&unix.CLONE_NEWUSER != 0 {
		sys.UidMappings, sys.GidMappings = idMaps(p.UIDMappings), idMaps(p.GIDMappings)
		sys.GidMappingsEnableSetgroups = true
		// Without this exec would see an unmapped user and take the capabilities.
		sys.Credential = &syscall.Credential{Uid: 0, Gid: 0}
	}
	if p.CgroupDir != "" {
		dir, err := unix.Open(p.CgroupDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, stepError("open "+p.CgroupDir, err)
		}
		defer unix.Close(dir)
		sys.UseCgroupFD, sys.CgroupFD = true, dir
	}
	attr := &syscall.ProcAttr{Env: environment(), Files: files, Sys: sys}
	pid := 0
	run := func() (err error) {
		if p.UserTarget != 0 {
			pid, pidFD, err = forkInto(p, files, witnesses, sys.CgroupFD)
			return err
		}
		if err := testify(witnesses); err != nil {
			return err
		}
		pid, err = syscall.ForkExec(binaryPath, argv, attr)
		return err
	}
	var err error
	if p.PIDNamespace != "" {
		err = ns.BornIn(p.PIDNamespace, run)
	} else {
		err = run()
	}
	if gone := (*StartError)(nil); errors.As(err, &gone) {
		return nil, gone
	}
	if err != nil {
		return nil, stepError("fork init", err)
	}
	if pidFD < 0 {
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = unix.Wait4(pid, nil, 0, nil)
		return nil, stepError("fork init", unix.ENOSYS)
	}
	return &Process{PID: pid, PIDFD: os.NewFile(uintptr(pidFD), "pidfd"), control: -1}, nil
}

func idMaps(list []IDMap) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, 0, len(list))
	for _, m := range list {
		out = append(out, syscall.SysProcIDMap{ContainerID: m.Container, HostID: m.Host, Size: m.Size})
	}
	return out
}

// InitFile makes the sealed file that Start executes from the bytes of the
// wherry-init binary. Nobody can write to it any more, also not through
// /proc/<pid>/exe from inside a container. The caller keeps it open for as
// long as it starts processes.
func InitFile(binary []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("wherry-init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // before 6.3 there is no MFD_EXEC and it is executable anyway
		fd, err = unix.MemfdCreate("wherry-init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "wherry-init")
	if _, err := f.Write(binary); err != nil {
		f.Close()
		return nil, err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, os.NewSyscallError("seal", err)
	}
	return f, nil
}
