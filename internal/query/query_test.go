package query

import (
	"reflect"
	"testing"

	"github.com/containerd/errdefs"
)

func TestParsePS(t *testing.T) {
	out := "UID   PID  PPID CMD\nroot   10     1 sh -c  sleep 5\nroot   11     1 other\nroot    -     - a thread\nme     12    10 sleep 5\n"
	got, err := parsePS(out, map[int]bool{10: true, 12: true})
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{{"root", "10", "1", "sh -c sleep 5"}, {"me", "12", "10", "sleep 5"}}
	if !reflect.DeepEqual(got.Processes, want) {
		t.Errorf("%q", got.Processes)
	}
	if _, err := parsePS("UID CMD\nroot x\n", nil); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if psArgs.MatchString("-ef; reboot") || psArgs.MatchString("$(x)") || !psArgs.MatchString("-eo pid,comm=NAME") {
		t.Error("arguments of ps")
	}
}

func TestCommandLine(t *testing.T) {
	if got := commandLine("sh", []string{"-c", "echo hi"}); got != "sh -c 'echo hi'" {
		t.Error(got)
	}
}

func TestDetails(t *testing.T) {
	if got := details(map[string]string{"b": "x y", "a": "1,2"}); got != "a=1%2C2,b=x+y" {
		t.Error(got)
	}
}
