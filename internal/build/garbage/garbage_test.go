package garbage

import (
	"runtime/debug"
	"testing"
	"time"
)

// now is the percent that holds.
func now() int {
	n := debug.SetGCPercent(-1)
	debug.SetGCPercent(n)
	return n
}

func TestPutOff(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(70))
	PutOff()
	PutOff() // of another build
	if n := now(); n != percent {
		t.Errorf("it runs at %d %% at the start of a build", n)
	}
	Resume()
	Resume()
	if n := now(); n != 70 {
		t.Errorf("it runs at %d %% after the build", n)
	}
	PutOff()
	for end := time.Now().Add(time.Minute); now() != 70; time.Sleep(moments / 10) {
		if time.Now().After(end) {
			t.Fatal("it never runs as ever during a long build")
		}
	}
}

// TestAsWanted leaves a program alone that is run without the collector.
func TestAsWanted(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	PutOff()
	if n := now(); n != -1 {
		t.Errorf("it runs at %d %%", n)
	}
	Resume()
	if n := now(); n != -1 {
		t.Errorf("it runs at %d %% after the build", n)
	}
}
