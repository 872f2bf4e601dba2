package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// clients are the programs that must all get the same answer.
func clients(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{"wherry": harness.Binary("wherry")}
	for condition, path := range map[string]string{"docker28": harness.DockerCLI(), "docker20": harness.OldDockerCLI()} {
		if have, _ := harness.Have(condition); have {
			all[condition] = path
		} else if harness.Promised(condition) {
			t.Fatalf("condition %q is promised on this machine but does not hold", condition)
		}
	}
	return all
}

// near runs a program in the network of the process pid and returns what it
// wrote to both streams.
func near(t *testing.T, pid int, env []string, stdin string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", pid), "--"}, args...)...)
	cmd.Env = append(clean(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		err = errors.New("took longer than a minute")
	}
	return out.String(), err
}

// clean is our environment without what would point a client elsewhere.
func clean() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "DOCKER_") && !strings.HasPrefix(kv, "WHERRY_") {
			env = append(env, kv)
		}
	}
	return env
}

// exitCode is 0 for no error, -1 for one that is not a program's end.
func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// output is what a program has written so far.
type output struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{} // has an element when text grew
}

// watch is to be called before the program is started; it takes both streams.
func watch(cmd *exec.Cmd) *output {
	o := &output{more: make(chan struct{}, 1)}
	cmd.Stdout, cmd.Stderr = o, o
	cmd.WaitDelay = time.Second // for what it started, which has its streams
	return o
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.more <- struct{}{}:
	default:
	}
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// says waits until the program has written the text.
func (o *output) says(text string) bool {
	limit := time.After(30 * time.Second)
	for {
		if strings.Contains(o.String(), text) {
			return true
		}
		select {
		case <-o.more:
		case <-limit:
			return false
		}
	}
}

func anyOf(text, wants string) bool {
	return slices.ContainsFunc(strings.Split(wants, "|"), func(w string) bool { return strings.Contains(text, w) })
}
