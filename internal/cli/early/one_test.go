package early

import (
	"runtime"
	"testing"
	"time"
)

func TestAlone(t *testing.T) {
	<-started
	before := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(3)
	defer runtime.GOMAXPROCS(before)
	all := alone(10 * time.Millisecond)
	<-all
	if n := runtime.GOMAXPROCS(0); n != 3 {
		t.Errorf("%d processors afterwards", n)
	}
}
