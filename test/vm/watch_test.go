package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// TestWatch: who says something, by whichever way, stands not still; a boot may
// take longer.
func TestWatch(t *testing.T) {
	const long = time.Hour
	for _, c := range []struct {
		name  string
		p     patience
		said  string
		talks bool // to the end
		still bool
	}{
		{"silent after it was alive", patience{boot: long, after: 1, tick: 1}, alive + "\n", false, true},
		{"silent at boot", patience{boot: 1, after: long, tick: 1}, "Linux\n", false, true},
		{"booting", patience{boot: long, after: 1, tick: 1}, "Linux\n", false, false},
		{"a test hangs", patience{boot: long, after: long, tick: 1}, alive + "\n", false, false},
		{"a test talks", patience{boot: time.Minute, after: time.Minute, tick: 1}, alive + "\n", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			console := filepath.Join(t.TempDir(), "console")
			if err := os.WriteFile(console, []byte(c.said), 0o644); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var looks atomic.Int64
			err := c.p.watch(ctx, console, func() int64 {
				if n := looks.Add(1); n == 50 && !c.still {
					cancel() // as long as it takes to see that nothing is found
				} else if c.talks {
					return n
				}
				return 0
			})
			if errors.Is(err, errStill) != c.still || !c.still && !errors.Is(err, context.Canceled) {
				t.Error(fmt.Errorf("%w after %d looks", err, looks.Load()))
			}
		})
	}
}
