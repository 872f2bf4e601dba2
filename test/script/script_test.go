// Package script runs testdata/*.txtar: end-to-end sessions of a command line
// client with a private engine. Every script runs once with wherry and once
// with the real docker client ($CLI); a script that names neither is a promise
// that both see the same.
package script

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/wherry-engine/wherry/test/harness"
)

var (
	update = flag.Bool("update", false, "rewrite golden sections of failing scripts")
	engine = flag.String("engine", "wherryd", "wherryd, or dockerd to see what the real one does")
	keepOn = flag.Bool("continue", false, "go on after a failing line")
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"ptyrun": ptyrun, "volumedriver": volumeDriver, "networkdriver": networkDriver})
}

func TestScript(t *testing.T) {
	kind := harness.Kind(*engine)
	if kind == harness.Docker {
		harness.Require(t, "root", "dockerd", "busybox")
	} else {
		harness.Require(t, "root", "engine", "busybox")
	}
	clients := []struct{ name, path, condition string }{
		{"wherry", harness.Binary("wherry"), "engine"},
		{"docker", harness.DockerCLI(), "docker20"},
	}
	if have, _ := harness.Have("docker28"); have {
		clients[1].condition = "docker28"
	}
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			harness.Require(t, c.condition)
			testscript.Run(t, testscript.Params{
				Dir:                 "testdata",
				UpdateScripts:       *update,
				ContinueOnError:     *keepOn,
				RequireExplicitExec: true,
				RequireUniqueNames:  true,
				Setup:               func(env *testscript.Env) error { return setup(env, kind, c.path) },
				Condition:           func(cond string) (bool, error) { return condition(cond, kind, c.name) },
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"engine": engineCmd, "status": statusCmd, "until": untilCmd, "capture": captureCmd,
				},
			})
		})
	}
}

type engineKey struct{}

// setup makes the script's engine; nothing runs before `engine start`.
func setup(env *testscript.Env, kind harness.Kind, client string) error {
	e, err := harness.New(harness.Options{Kind: kind})
	if err != nil {
		return err
	}
	env.Values[engineKey{}] = e
	patience := 2 * time.Minute
	if emulated() {
		patience = 5 * time.Minute
	}
	watchdog := time.AfterFunc(patience, e.Abort)
	env.Defer(func() {
		watchdog.Stop()
		tail := e.LogTail(15)
		if err := e.Close(); err != nil {
			env.T().Log(fmt.Sprintf("%v\nthe daemon's log ends with:\n%s", err, tail))
			env.T().FailNow()
		}
	})
	config := filepath.Join(env.WorkDir, ".docker")
	if err := os.Mkdir(config, 0o700); err != nil {
		return err
	}
	for k, v := range map[string]string{
		"CLI": client, "DOCKER20": harness.OldDockerCLI(), "DOCKER_HOST": e.Host(), "WHERRY_HOST": e.Host(), "DOCKER_CONFIG": config,
		"REGISTRY": harness.Binary("wherry-registry"), "WHERRY": harness.Binary("wherry"), "SOCKET": e.Socket(), "DATA": e.DataRoot(), "EXEC": e.ExecRoot(), "PIDFILE": filepath.Join(e.Dir, "pid"),
		"GROUP": e.ID, "TERM": "xterm", "TZ": "UTC",
	} {
		env.Setenv(k, v)
	}
	return nil
}

// emulated tells that each command may take ten times as long as elsewhere.
func emulated() bool {
	guest, _ := harness.Have("guest")
	return guest
}

func condition(cond string, kind harness.Kind, client string) (bool, error) {
	switch cond {
	case "wherryd", "dockerd":
		return cond == string(kind), nil
	case "wherry":
		return client == "wherry", nil
	}
	have, known := harness.Have(cond)
	switch {
	case !known:
		return false, fmt.Errorf("unknown condition %q", cond)
	case !have && harness.Promised(cond):
		return false, fmt.Errorf("condition %q is promised on this machine but does not hold", cond)
	}
	return have, nil
}

// engineCmd: engine start|stop|kill9|restart [FLAG...]; start also loads
// busybox the first time, unless the first argument is -bare. engine etc DIR
// puts files over its /etc.
func engineCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: engine start|stop|kill9|restart [FLAG...]")
	}
	e := ts.Value(engineKey{}).(*harness.Engine)
	verb, flags := args[0], args[1:]
	bare := len(flags) > 0 && flags[0] == "-bare"
	if bare {
		flags = flags[1:]
	}
	var err error
	switch verb {
	case "start":
		_, statErr := os.Stat(e.DataRoot())
		if err = e.Start(flags...); err == nil && statErr != nil && !bare {
			err = e.LoadBusybox()
		}
	case "stop":
		err = e.Stop()
	case "etc":
		err = e.OverEtc(ts.MkAbs(flags[0]))
	case "kill9":
		e.Kill()
	case "restart":
		err = e.Restart(flags...)
	default:
		ts.Fatalf("unknown verb %q", verb)
	}
	switch {
	case neg && err == nil:
		ts.Fatalf("engine %s succeeded unexpectedly", verb)
	case neg:
		ts.Logf("%v", err)
	case err != nil:
		ts.Fatalf("%v\nthe daemon's log ends with:\n%s", err, e.LogTail(30))
	}
}

// statusCmd: status CODE PROGRAM ARG...: the program must end with the code.
func statusCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("usage: status CODE PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got, err := 0, ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// untilCmd: until REGEXP PROGRAM ARG...: run the program until what it prints
// (on either stream) matches, for ten seconds; in an emulated guest a minute.
func untilCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: [!] until REGEXP PROGRAM ARG...")
	}
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	var env []string
	for _, k := range []string{"PATH", "HOME", "DOCKER_HOST", "WHERRY_HOST", "DOCKER_CONFIG", "TZ", "CLI"} {
		env = append(env, k+"="+ts.Getenv(k))
	}
	limit := 10 * time.Second
	if emulated() {
		limit = time.Minute
	}
	var out []byte
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		cmd := exec.CommandContext(ctx, args[1], args[2:]...)
		cmd.Env, cmd.Dir = env, ts.MkAbs(".")
		out, _ = cmd.CombinedOutput()
		cancel()
		if re.Match(out) != neg {
			return
		}
	}
	ts.Fatalf("after %v still: %s", limit, out)
}

// captureCmd: capture VAR PROGRAM ARG...: put what the program prints into $VAR.
func captureCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("usage: capture VAR PROGRAM ARG...")
	}
	ts.Check(ts.Exec(args[1], args[2:]...))
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}
