// Command run runs the tests of packages in a virtual machine:
//
//	go run ./test/vm/run [-arch arm64] [-systemd] [-run PATTERN] ./internal/linux/cgroup ...
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/wherry-engine/wherry/test/vm"
)

func main() {
	o := vm.Options{Module: ".", Output: os.Stdout}
	flag.BoolVar(&o.Systemd, "systemd", false, "systemd as init, on a minimal Debian")
	flag.StringVar(&o.Run, "run", "", "only tests that match the pattern")
	flag.StringVar(&o.Arch, "arch", "amd64", "the guest's processors, or arm64")
	flag.StringVar(&o.Kernel, "kernel", "", "the package that depends on the kernel (default linux-image-cloud-ARCH)")
	flag.StringVar(&o.Accel, "accel", "tcg", "qemu's accelerator")
	flag.StringVar(&o.Memory, "m", "2G", "memory")
	require := flag.String("require", "root,cgroup,cgroup2", "conditions that hold in the guest")
	flag.DurationVar(&o.Patience, "patience", 10*time.Minute, "with one package's tests")
	programs := flag.String("programs", "./cmd/wherry-init,./cmd/wherry-keeper", "programs that the tests build, comma separated")
	files := flag.String("files", "", "files to copy, SOURCE or SOURCE=PATH, comma separated")
	timeout := flag.Duration("timeout", 15*time.Minute, "for the whole run")
	flag.Parse()
	words := func(s string) []string {
		return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
	}
	o.Require, o.Programs, o.Files = words(*require), words(*programs), words(*files)
	if o.Packages = flag.Args(); len(o.Packages) == 0 {
		fmt.Fprintln(os.Stderr, "usage: run [flags] package...")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	err := vm.Run(ctx, o)
	var failed *vm.FailedError
	if errors.As(err, &failed) {
		os.Exit(1)
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(2)
	}
}
