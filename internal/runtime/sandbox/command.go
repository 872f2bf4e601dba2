package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Command makes a process through another OCI runtime instead of wherry-init.
// The runtime's own program ends once the process exists; the process is then
// a child of the caller, which must be a subreaper.
type Command struct {
	Path string
	// Create are the arguments (without the program's name) that make the
	// process, and Start those that let it run; none if Create does both.
	Create, Start []string
	// Dir is the working directory: the bundle.
	Dir string
	// PIDFile is written by Create. Console, with Plan.Terminal, is the name of
	// the socket in Dir that Create sends the terminal's master to.
	PIDFile, Console string
}

// consoleLimit is how long the master of a terminal may take to arrive once
// the runtime has ended with success.
const consoleLimit = 5 * time.Second

// startCommand is Start by way of another runtime.
func startCommand(p *Plan, io Stdio, extra []*os.File) (*Process, error) {
	c := p.Runtime
	_, witnesses, err := p.split(extra)
	if err == nil {
		err = testify(witnesses)
	}
	if err != nil {
		return nil, err
	}
	listener := -1
	if p.Terminal {
		var err error
		if listener, err = c.listen(); err != nil {
			return nil, stepError("console socket", err)
		}
		defer func() {
			unix.Close(listener)
			_ = os.Remove(filepath.Join(c.Dir, c.Console))
		}()
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, stepError("open /dev/null", err)
	}
	defer null.Close()
	files := []*os.File{io.In, io.Out, io.Err}
	for i, f := range files {
		if f == nil || p.Terminal {
			files[i] = null
		}
	}
	if err := c.run(c.Create, files); err != nil {
		return nil, err
	}
	proc, err := c.take(listener, p)
	if err != nil {
		return nil, err
	}
	if err := testify(witnesses); err != nil {
		return nil, proc.abandon(err)
	}
	if p.Hold || len(c.Start) == 0 {
		if p.Hold {
			proc.resume = func() error { return c.run(c.Start, []*os.File{nil, nil, nil}) }
		}
		return proc, nil
	}
	if err := c.run(c.Start, []*os.File{nil, nil, nil}); err != nil {
		return nil, proc.abandon(err)
	}
	return proc, nil
}

// run executes the runtime and waits for it. Why it failed is in its log,
// which is the matter of whoever made the arguments.
func (c *Command) run(args []string, files []*os.File) error {
	p, err := os.StartProcess(c.Path, append([]string{c.Path}, args...), &os.ProcAttr{Dir: c.Dir, Env: []string{"PATH=" + searchPath}, Files: files})
	if err != nil {
		return stepError("runtime", err)
	}
	state, err := p.Wait()
	if err != nil {
		return stepError("runtime", err)
	}
	if !state.Success() {
		return &StartError{Step: "runtime", Message: c.Path + ": " + state.String()}
	}
	return nil
}

const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// take finds the process that the runtime has made.
func (c *Command) take(listener int, p *Plan) (*Process, error) {
	b, err := os.ReadFile(c.PIDFile)
	if err != nil {
		return nil, stepError("runtime", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return nil, &StartError{Step: "runtime", Message: c.PIDFile + " does not hold a process id"}
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, stepError("pidfd of the runtime's process", err)
	}
	proc := &Process{PID: pid, PIDFD: os.NewFile(uintptr(fd), "pidfd"), control: -1}
	if listener < 0 {
		return proc, nil
	}
	if proc.Terminal, err = receiveTerminal(listener, p.Rows, p.Cols); err != nil {
		return nil, proc.abandon(stepError("console socket", err))
	}
	return proc, nil
}

// listen makes the socket; it is bound by a path that is short for sure.
func (c *Command) listen() (int, error) {
	dir, err := unix.Open(c.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(dir) + "/" + c.Console}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if err := unix.Listen(fd, 1); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func receiveTerminal(listener int, rows, cols uint16) (*os.File, error) {
	poll := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, int(consoleLimit/time.Millisecond))
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll(poll, int(consoleLimit/time.Millisecond))
	}
	if err != nil || n == 0 {
		return nil, errors.Join(err, errors.New("the runtime sent no terminal"))
	}
	fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*4))
	_, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	fds := rights(oob[:oobn])
	if len(fds) != 1 {
		closeFDs(fds)
		return nil, errors.New("the runtime sent no terminal")
	}
	return terminal(fds[0], rows, cols), nil
}
