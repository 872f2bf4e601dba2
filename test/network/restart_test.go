package network

import (
	"bytes"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/test/harness"
)

// insisting is a client that asks without a pause.
type insisting struct {
	row string
	cmd *exec.Cmd
	in  io.Closer
	out bytes.Buffer
}

// insist begins to ask from a row's namespace.
func (l *lab) insist(row string, questions []string) *insisting {
	l.t.Helper()
	x := &insisting{row: row, cmd: exec.Command(l.probe, append([]string{"insist"}, questions...)...)}
	x.cmd.Stdout, x.cmd.Stderr = &x.out, &x.out
	in, err := x.cmd.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	x.in = in
	l.within(l.ns[row], func(*rtnl.Conn) error { return x.cmd.Start() })
	l.t.Cleanup(func() { in.Close(); x.cmd.Process.Kill(); x.cmd.Wait() })
	return x
}

// end stops the client; every question must have had an answer each time.
func (x *insisting) end(l *lab) {
	l.t.Helper()
	x.in.Close()
	if err := x.cmd.Wait(); err != nil {
		l.t.Errorf("from %s: %v", x.row, err)
	}
	for line := range strings.Lines(x.out.String()) {
		f := strings.Fields(line)
		switch {
		case len(f) > 0 && f[0] == "failed":
			l.t.Errorf("from %s: %s", x.row, strings.TrimSpace(line))
		case len(f) == 3 && f[0] == "answered":
			if n, err := strconv.Atoi(f[2]); err != nil || n == 0 {
				l.t.Errorf("from %s: %s times", x.row, strings.TrimSpace(line))
			}
		}
	}
}

// TestKillRounds: while engines are killed and started and networks come and go,
// not a packet to or from a published port is lost, from wherever the table lets
// it be reached.
func TestKillRounds(t *testing.T) {
	l := newLab(t, harness.Options{})
	l.settle(true)
	q := l.questions(true)
	var clients []*insisting
	for _, row := range []string{"the host", "a neighbour on the LAN", "a container on another network", "a container on the same network"} {
		clients = append(clients, l.insist(row, q(row, published)))
	}
	for range 10 {
		l.e.Kill()
		if err := l.e.Start(); err != nil {
			t.Fatal(err)
		}
		l.cli("ps") // waits until the containers are the new engine's
		// What else changes rules.
		l.cli("network", "create", "more")
		l.cli("network", "rm", "more")
	}
	for _, c := range clients {
		c.end(l)
	}
}
