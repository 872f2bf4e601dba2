package sweep

import (
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestGrace: a blob stays while a request is about it, and for the time of grace
// after one that told of it.
func TestGrace(t *testing.T) {
	d := digest.FromString("x")
	for _, told := range []bool{false, true} {
		l := New(nil, nil)
		l.dropped, l.idle[d] = nil, time.Now().Add(-time.Hour)
		release := l.Hold(d)
		if _, ok := l.claim(d, time.Minute); ok {
			t.Error("it goes while a request is about it")
		}
		release(told)
		if _, ok := l.claim(d, time.Minute); ok == told {
			t.Errorf("told %t: it goes: %t", told, ok)
		}
	}
}
