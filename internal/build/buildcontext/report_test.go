package buildcontext

import (
	"context"
	"testing"
	"time"

	"github.com/moby/buildkit/util/progress"
)

// What was told of a transfer stays as it was told: others read it meanwhile.
func TestReport(t *testing.T) {
	reader, ctx, end := progress.NewContext(t.Context())
	tell := report(ctx, "x")
	for begun := time.Now(); !time.Now().After(begun); { // the clock: another time than that of the start
	}
	tell(1, true)
	end(nil)
	var started time.Time
	for {
		list, err := reader.Read(context.WithoutCancel(ctx))
		if err != nil {
			break
		}
		for _, p := range list {
			st := p.Sys.(progress.Status)
			if started.IsZero() {
				started = *st.Started
			}
			if !st.Started.Equal(started) || st.Completed != nil && !st.Completed.After(started) {
				t.Errorf("started %v, and then %v, completed %v", started, st.Started, st.Completed)
			}
		}
	}
	if started.IsZero() {
		t.Error("nothing was told")
	}
}
