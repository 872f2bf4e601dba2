package sandbox_test

import (
	"testing"
)

func TestStart(t *testing.T) {
	b := newBox(t, "echo", "hi")
	if got := b.output(); got != "hi\n" {
		t.Fatalf("got %q", got)
	}
}
