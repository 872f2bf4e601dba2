package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// alive is what the guest says on the kernel's console every few seconds while
// tests run, whatever the tests do: see the guest program.
const alive = "wherry-vm: alive"

// patience is how long a guest may be silent: neither a program nor the kernel
// says anything.
type patience struct {
	boot  time.Duration // before it first says that it is alive
	after time.Duration
	tick  time.Duration // between two looks
}

var patient = patience{boot: 3 * time.Minute, after: time.Minute, tick: time.Second}

// errStill says that the guest's kernel stood still: none of its programs ran.
// A test that hangs does not lead to it, for the guest goes on to say that it is
// alive.
var errStill = errors.New("the guest's kernel stood still")

// watch returns when ctx ends or, with errStill, when neither the console nor
// the tests' output (of which spoke gives how much there was) grows any more.
func (p patience) watch(ctx context.Context, console string, spoke func() int64) error {
	size, since, begun := int64(0), time.Now(), false
	tick := time.NewTicker(p.tick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		now := spoke()
		if st, err := os.Stat(console); err == nil {
			now += st.Size()
		}
		if now != size {
			size, since = now, time.Now()
			if !begun {
				b, _ := os.ReadFile(console)
				begun = bytes.Contains(b, []byte(alive))
			}
			continue
		}
		limit := p.boot
		if begun {
			limit = p.after
		}
		if time.Since(since) > limit {
			return fmt.Errorf("%w: nothing was heard of it for %v", errStill, limit)
		}
	}
}

// examine asks qemu where the processors are, and the kernel, by the keys that
// it takes however busy it is, for the stacks of all tasks; those go to the
// console. Nothing is left to do with the guest afterwards.
func examine(w io.Writer, monitor, console string) {
	c, err := net.DialTimeout("unix", monitor, 5*time.Second)
	if err != nil {
		fmt.Fprintln(w, "vm: no monitor:", err)
		return
	}
	defer c.Close()
	ask := func(command string) string {
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprintf(c, "%s\n", command)
		var out strings.Builder
		for buf := make([]byte, 4096); !strings.HasSuffix(out.String(), "(qemu) "); {
			n, err := c.Read(buf)
			out.Write(buf[:n])
			if err != nil {
				fmt.Fprintln(&out, err)
				break
			}
		}
		return out.String()
	}
	ask("info name") // past the greeting
	fmt.Fprintln(w, "--- processors, twice ---")
	for range 2 {
		fmt.Fprintln(w, ask("info registers -a"))
		fmt.Fprintln(w, ask("info cpus"))
	}
	fmt.Fprintln(w, ask("info pic"))
	// The level of the console; processors, blocked tasks, timers, all tasks.
	for _, key := range []string{"9", "l", "w", "q", "t"} {
		ask("sendkey alt-sysrq-" + key)
		settle(console)
	}
}

// settle waits until the console has nothing more to say.
func settle(console string) {
	size, end := int64(-1), time.Now().Add(15*time.Second)
	for time.Now().Before(end) {
		time.Sleep(2 * time.Second) // what a slow machine needs for a line
		st, err := os.Stat(console)
		if err != nil || st.Size() == size {
			return
		}
		size = st.Size()
	}
}

// tail shows the end of the kernel's console, which says why there is no result.
func tail(w io.Writer, file string, length int) {
	b, err := os.ReadFile(file)
	if err != nil {
		fmt.Fprintln(w, err)
		return
	}
	var out bytes.Buffer
	for line := range bytes.Lines(b) {
		if !bytes.Contains(line, []byte(alive)) {
			out.Write(line)
		}
	}
	fmt.Fprintf(w, "--- console ---\n%s\n---\n", out.Bytes()[max(0, out.Len()-length):])
}
