package main

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/caps"
	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/runtime/identity"
	"github.com/wherry-engine/wherry/internal/runtime/initproto"
)

// errEscape guards against a working directory that was left outside.
var errEscape = errors.New("current working directory is outside of container mount namespace root -- possible container breakout detected")

const capSysAdmin = caps.Set(1) << 21

// become drops to what the user's process may be and executes it. Only raw
// system calls of this thread follow the seccomp filter.
func (s *state) become(p *initproto.Process) *initproto.Failure {
	_, _ = unix.Setsid()
	if p.Keyring != "" {
		// Kernels without keyrings, and users over their quota, keep the parent's.
		_, _ = unix.KeyctlJoinSessionKeyring(p.Keyring)
	}
	if f := setLimits(p.Rlimits); f != nil {
		return f
	}
	id, f := identity.Of(s.root, p)
	if f != nil {
		return f
	}
	env := identity.WithHome(p.Env, id.Home)
	if f := s.label.set(p); f != nil {
		return f
	}
	if p.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fail("no_new_privs", err)
		}
	}
	fixStreams(id.UID)
	if f := s.drop(p, id); f != nil {
		return f
	}
	if p.Bound {
		// Only here: a change of identity takes it back.
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
			return fail("parent death signal", err)
		}
	}
	path, f := lookPath(p.Args[0], env)
	if f != nil {
		return f
	}
	return execute(p, path, env)
}

func setLimits(list []initproto.Rlimit) *initproto.Failure {
	for _, l := range list {
		lim := unix.Rlimit{Cur: l.Soft, Max: l.Hard}
		if err := unix.Prlimit(0, int(l.Resource), &lim, nil); err != nil {
			return fail("setting rlimit "+itoa(int(l.Resource)), err)
		}
	}
	return nil
}

// fixStreams gives the standard streams to the user, so that /dev/stdout can
// be opened again. Where that is not possible they work all the same.
func fixStreams(uid uint32) {
	for fd := range 3 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Uid == uid {
			continue
		}
		kind := st.Mode & unix.S_IFMT
		if kind == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) || kind == unix.S_IFREG {
			continue
		}
		_ = unix.Fchown(fd, int(uid), int(st.Gid))
	}
}

// drop changes to the identity and its capabilities, and enters the working
// directory. Until exec CAP_SYS_ADMIN is kept when the seccomp filter needs it.
func (s *state) drop(p *initproto.Process, id identity.Identity) *initproto.Failure {
	cwd, cwdErr := mount.OpenIn(s.root, p.Cwd, unix.O_PATH|unix.O_DIRECTORY)
	if cwdErr == nil {
		cwdErr = unix.Fchdir(cwd)
	}
	if err := caps.Limit(caps.Set(p.Bounding)); err != nil {
		return fail("bounding capabilities", err)
	}
	permitted, _, err := caps.Current()
	if err != nil {
		return fail("capabilities", err)
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fail("keep capabilities", err)
	}
	if f := setIdentity(id); f != nil {
		return f
	}
	// What cannot be had (a parent without it) is left out, as the bounding set does.
	effective := caps.Set(p.Effective) & permitted
	allowed := caps.Set(p.Permitted) & permitted
	inheritable := caps.Set(p.Inheritable) & permitted
	extra := caps.Set(0)
	if p.Seccomp != nil && !p.NoNewPrivs {
		extra = capSysAdmin & permitted
	}
	if err := caps.Apply(effective|extra, allowed|extra, inheritable); err != nil {
		return fail("set capabilities", err)
	}
	if err := caps.Raise(caps.Set(p.Ambient) & allowed & inheritable); err != nil {
		return fail("ambient capabilities", err)
	}
	p.Effective, p.Permitted, p.Inheritable = uint64(effective), uint64(allowed), uint64(inheritable)
	if errors.Is(cwdErr, unix.EACCES) || errors.Is(cwdErr, unix.EPERM) {
		// A directory that root may not enter but the user may (network file systems).
		if cwd, cwdErr = mount.OpenIn(s.root, p.Cwd, unix.O_PATH|unix.O_DIRECTORY); cwdErr == nil {
			cwdErr = unix.Fchdir(cwd)
		}
	}
	if cwdErr != nil {
		text := "chdir to cwd (\"" + p.Cwd + "\") set in config.json failed: " + errno(cwdErr).Error()
		return failText("chdir", text, cwdErr)
	}
	return checkCwd()
}

// setIdentity changes this thread alone: the runtime's other threads end with
// the exec, and waiting for each of them to follow would take longer than all the
// rest of init.
func setIdentity(id identity.Identity) *initproto.Failure {
	var groups unsafe.Pointer
	if len(id.Groups) > 0 {
		groups = unsafe.Pointer(&id.Groups[0])
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(id.Groups)), uintptr(groups), 0); e != 0 {
		return fail("setgroups", e)
	}
	gid, uid := uintptr(id.GID), uintptr(id.UID)
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); e != 0 {
		return fail("setgid", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); e != 0 {
		return fail("setuid", e)
	}
	return nil
}

// checkCwd is the last look before exec: the kernel names a directory outside
// of the root without a leading slash.
func checkCwd() *initproto.Failure {
	var buf [unix.PathMax]byte
	n, err := unix.Getcwd(buf[:])
	if err != nil {
		if err == unix.ENOENT {
			return fail("chdir", errEscape)
		}
		return fail("getcwd", err)
	}
	if n == 0 || buf[0] != '/' {
		return fail("chdir", errEscape)
	}
	return nil
}

// execute is the point of no return. What fails after the last message to the
// parent is told on the user's standard error with status 255, as docker users
// know it for "exec format error".
func execute(p *initproto.Process, path string, env []string) *initproto.Failure {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return fail("exec", err)
	}
	argv, err := pointers(p.Args)
	if err != nil {
		return fail("exec", err)
	}
	envp, err := pointers(env)
	if err != nil {
		return fail("exec", err)
	}
	unix.Umask(int(p.Umask))
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fail("close descriptors", err)
	}
	if p.Reaper {
		if _, err := unix.FcntlInt(initproto.ControlFD, unix.F_SETFD, 0); err != nil {
			return fail("keep the control socket", err)
		}
	} else if err := send([]byte{initproto.KindExec}, -1); err != nil {
		return fail("send", err)
	}
	if p.Seccomp != nil {
		if e := loadSeccomp(p.Seccomp, p.SeccompFlags); e != 0 {
			return fail("load seccomp filter", e)
		}
		if !p.NoNewPrivs {
			effective, permitted, inheritable := caps.Set(p.Effective), caps.Set(p.Permitted), caps.Set(p.Inheritable)
			if err := caps.Apply(effective, permitted, inheritable); err != nil {
				return fail("set capabilities", err)
			}
		}
	}
	_, _, e := unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(name)),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envp[0])))
	_, _ = unix.Write(2, []byte("exec "+path+": "+e.Error()+"\n"))
	unix.Exit(255)
	return nil
}

func pointers(list []string) ([]*byte, error) {
	out := make([]*byte, len(list)+1)
	for i, v := range list {
		p, err := unix.BytePtrFromString(v)
		if err != nil {
			return nil, err
		}
		out[i] = p
	}
	return out, nil
}

// label is attr/exec of this thread in the host's /proc, -1 when not needed.
type label struct{ fd int }

// open opens the file for security labels while the host's own /proc is
// the one in sight.
func (l *label) open(ops []initproto.Op) *initproto.Failure {
	if len(ops) == 0 || ops[len(ops)-1].Process == nil {
		return nil
	}
	p := ops[len(ops)-1].Process
	if p.AppArmor == "" && p.SELinux == "" {
		return nil
	}
	path := "/proc/thread-self/attr/exec"
	if p.AppArmor != "" {
		if fd, err := unix.Open("/proc/thread-self/attr/apparmor/exec", unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
			return l.check(fd)
		}
	}
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail("open "+path, err)
	}
	return l.check(fd)
}

func (l *label) check(fd int) *initproto.Failure {
	if magic, err := mount.FSType(fd); err != nil || magic != unix.PROC_SUPER_MAGIC {
		return failText("label", "/proc is not a proc file system", unix.EXDEV)
	}
	l.fd = fd
	return nil
}

func (l *label) set(p *initproto.Process) *initproto.Failure {
	text := p.SELinux
	if p.AppArmor != "" {
		text = "exec " + p.AppArmor
	}
	if text == "" {
		return nil
	}
	_, err := unix.Write(l.fd, []byte(text))
	switch {
	case err != nil && p.AppArmor != "" && errors.Is(err, unix.ENOENT):
		return failText("label", "unable to apply apparmor profile \""+p.AppArmor+"\": it is not loaded", err)
	case err != nil && p.AppArmor != "":
		return failText("label", "unable to apply apparmor profile \""+p.AppArmor+"\": "+err.Error(), err)
	case err != nil:
		return failText("label", "unable to apply security label \""+text+"\": "+err.Error(), err)
	}
	return nil
}
