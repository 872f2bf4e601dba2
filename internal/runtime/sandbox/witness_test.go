package sandbox_test

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/pidfd"
	"github.com/wherry-engine/wherry/internal/runtime/compile"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
	"github.com/wherry-engine/wherry/internal/runtime/spec"
)

// departed is the witness of a process that has ended: whatever is found under
// its number is another's.
func departed(t *testing.T) *os.File {
	t.Helper()
	cmd := exec.Command("/bin/sleep", "1000")
	must(t, cmd.Start())
	f, err := pidfd.Open(cmd.Process.Pid)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	return f
}

// TestWitness: namespaces that a plan names by a process's number are joined only
// while the process that is meant is there, in each way of joining.
func TestWitness(t *testing.T) {
	_, plain := sleeper(t)
	remapped, inside := sleeper(t, remap)
	join := func(name string, kind specs.LinuxNamespaceType) func(*testing.T) *sandbox.Plan {
		return func(t *testing.T) *sandbox.Plan {
			b := newBox(t, "true")
			b.in.Namespaces[kind] = spec.NS{Kind: spec.Path, Path: "/proc/" + itoa(plain.PID) + "/ns/" + name}
			return b.plan()
		}
	}
	for name, tt := range map[string]struct {
		in   *process
		plan func(*testing.T) *sandbox.Plan
	}{
		"network": {plain, join("net", specs.NetworkNamespace)},
		"pid":     {plain, join("pid", specs.PIDNamespace)},
		"exec in a user namespace": {inside, func(t *testing.T) *sandbox.Plan {
			s, _, err := spec.Build(remapped.in)
			must(t, err)
			p, err := spec.BuildExec(s, &container.ExecCreateRequest{Cmd: []string{"true"}})
			must(t, err)
			plan, err := compile.Exec(p, compile.ExecOptions{PID: inside.PID, Main: s, Lookup: true})
			must(t, err)
			return plan
		}},
		"another runtime": {plain, func(t *testing.T) *sandbox.Plan {
			return &sandbox.Plan{Runtime: &sandbox.Command{Path: "/bin/false"}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			plan := tt.plan(t)
			if !plan.Joins() && plan.Runtime == nil {
				t.Error("the plan names no process")
			}
			plan.Witnesses = 2
			_, err := finish(t, plan, "", []*os.File{tt.in.PIDFD, departed(t)})
			if f := (*sandbox.StartError)(nil); !errors.As(err, &f) || f.Step != "witness" || f.Errno != unix.ESRCH {
				t.Errorf("joined for one that has ended: %v", err)
			}
			if plan.Runtime != nil {
				return
			}
			plan.Witnesses = 1
			r, err := finish(t, plan, "", []*os.File{tt.in.PIDFD})
			if err != nil || r.exit.Status() != 0 {
				t.Errorf("with those that are there: %v, %q %d", err, r.err, r.exit.Status())
			}
		})
	}
}
