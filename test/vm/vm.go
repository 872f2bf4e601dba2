// Package vm owns the lane that runs test binaries in a virtual machine with a
// kernel and a cgroup set-up other than the host's: Debian's cloud kernel under
// qemu, with cgroup v2 alone. Nothing is installed on the host; what is
// downloaded stays in a cache directory.
package vm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Options say what to run. The zero value of a field means its default.
type Options struct {
	Packages []string      // what to `go test -c`, relative to Module; PACKAGE or PACKAGE=PATTERN
	Module   string        // the module's directory
	Cache    string        // default Module/.cache/vm
	Require  []string      // conditions that hold in the guest: a test that misses one fails
	Run      string        // -test.run, of packages that name none of their own as PACKAGE=PATTERN
	Systemd  bool          // systemd as init, on a minimal Debian
	Programs []string      // programs that tests may build: the guest has no Go, it gets these
	Files    []string      // more files, SOURCE or SOURCE=PATH in the guest
	Arch     string        // default "amd64"; the guest's processors, "arm64" is the other one
	Kernel   string        // default "linux-image-cloud-ARCH"; Debian's package that depends on the newest kernel of a kind
	Accel    string        // default "tcg"
	Patience time.Duration // with one package's tests, default ten minutes
	Memory   string        // default "2G"
	Output   io.Writer     // where the tests' output goes
}

// machine is what qemu makes for an architecture, without disk and memory. The
// second of its lines goes to the standard output.
type machine struct {
	program string
	args    []string // with the file for the kernel's console in place of CONSOLE
	console string   // the kernel's name for the first line
	modules []string // what is needed to start, beside the disk
}

var machines = map[string]machine{
	"amd64": {
		program: "qemu-system-x86_64", console: "ttyS0",
		args: []string{"-cpu", "max", "-serial", "file:CONSOLE", "-serial", "stdio"},
	},
	// It has one serial port; pointers are signed by less work than the standard's.
	"arm64": {
		program: "qemu-system-aarch64", console: "ttyAMA0", modules: []string{"virtio_console"},
		args: []string{
			"-machine", "virt", "-cpu", "max,pauth-impdef=on", "-serial", "file:CONSOLE",
			"-chardev", "stdio,id=out", "-device", "virtio-serial-pci", "-device", "virtconsole,chardev=out",
		},
	},
}

// FailedError says that the guest ran and that tests failed.
type FailedError struct{ Code int }

func (e *FailedError) Error() string {
	return fmt.Sprintf("tests failed in the guest: status %d", e.Code)
}

// Missing says what this machine lacks to run a guest of an architecture, "" if nothing.
func Missing(arch string) string {
	for _, c := range []string{machines[arch].program, "mke2fs", "apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(c); err != nil {
			return c
		}
	}
	return ""
}

// Run builds the tests and the guest, runs them in it and copies their output.
func Run(ctx context.Context, o Options) error {
	if o.Cache == "" {
		o.Cache = filepath.Join(o.Module, ".cache", "vm")
	}
	if o.Arch == "" {
		o.Arch = "amd64"
	}
	if machines[o.Arch].program == "" {
		return fmt.Errorf("no machine with processors of %s is known", o.Arch)
	}
	if o.Kernel == "" {
		o.Kernel = "linux-image-cloud-" + o.Arch
	}
	if o.Patience == 0 {
		o.Patience = 10 * time.Minute
	}
	if o.Accel == "" {
		o.Accel = "tcg"
	}
	if o.Memory == "" {
		o.Memory = "2G"
	}
	for _, dir := range []*string{&o.Module, &o.Cache} { // tools run in other directories
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = abs
	}
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(o.Cache, "run-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	k, err := fetchKernel(ctx, o)
	if err != nil {
		return err
	}
	initrd, disk := filepath.Join(work, "initrd"), filepath.Join(work, "disk")
	if err := buildImages(ctx, o, k, work, initrd, disk); err != nil {
		return err
	}
	return run(ctx, o, k, work, initrd, disk)
}

// Marks of the guest's protocol on the second serial port, each on a line.
const exitMark = "wherry-vm: exit "

// run starts the guest, and once more if its kernel stood still: an emulated
// machine does that once in many runs, and nothing that a test does may be the
// reason (see errStill). The disk is as it was made each time.
func run(ctx context.Context, o Options, k *kernel, work, initrd, disk string) error {
	err := boot(ctx, o, k, work, initrd, disk)
	if errors.Is(err, errStill) && ctx.Err() == nil {
		fmt.Fprintf(o.Output, "vm: WARNING: %v.\nvm: WARNING: all of the above is void; the guest starts ONCE MORE.\n", err)
		err = boot(ctx, o, k, work, initrd, disk)
	}
	return err
}

func boot(ctx context.Context, o Options, k *kernel, work, initrd, disk string) error {
	console, monitor := filepath.Join(work, "console"), filepath.Join(work, "monitor")
	init := "/wherry/init"
	if o.Systemd {
		init = "/sbin/init"
	} else {
		init += " apparmor=0" // nothing is there to load a profile
	}
	m := machines[o.Arch]
	args := []string{
		"-accel", o.Accel, "-smp", "2", "-m", o.Memory,
		"-display", "none", "-no-reboot", "-monitor", "unix:" + monitor + ",server=on,wait=off", "-nic", "none",
		"-kernel", k.image, "-initrd", initrd,
		"-append", "console=" + m.console + " panic=-1 loglevel=5 sysrq_always_enabled wherry.init=" + init + " systemd.unified_cgroup_hierarchy=1",
		"-drive", "file=" + disk + ",format=raw,if=virtio,cache=unsafe,snapshot=on",
	}
	for _, a := range m.args {
		args = append(args, strings.ReplaceAll(a, "CONSOLE", console))
	}
	cmd := exec.Command(m.program, args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+work) // what the guest writes
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	var spoke atomic.Int64
	ended, watched := context.WithCancel(ctx)
	verdict := make(chan error, 1)
	go func() {
		why := patient.watch(ended, console, spoke.Load)
		if errors.Is(why, errStill) || ctx.Err() != nil {
			examine(o.Output, monitor, console)
			_ = cmd.Process.Kill()
		}
		verdict <- why
	}()
	code := -1
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		spoke.Add(int64(len(line)))
		if s, ok := strings.CutPrefix(strings.TrimRight(line, "\r\n"), exitMark); ok {
			if n, err := strconv.Atoi(s); err == nil {
				code = n
			}
		} else if line != "" {
			fmt.Fprint(o.Output, strings.ReplaceAll(line, "\r\n", "\n"))
		}
		if err != nil {
			break
		}
	}
	err = cmd.Wait()
	watched()
	why := <-verdict
	o.Output.Write(complaints.Bytes())
	if code < 0 {
		switch {
		case errors.Is(why, errStill):
			tail(o.Output, console, 60000)
			return why
		case ctx.Err() != nil:
			tail(o.Output, console, 60000)
			return fmt.Errorf("the guest did not finish in time: %w", context.Cause(ctx))
		}
		tail(o.Output, console, 8000)
		return errors.Join(errors.New("the guest ended without a result"), err)
	}
	fmt.Fprintf(o.Output, "vm: guest ran for %v\n", time.Since(start).Round(time.Second))
	if code != 0 {
		return &FailedError{code}
	}
	return nil
}
