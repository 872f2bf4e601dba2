package older

import (
	"fmt"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/jsonstream"
)

// HadProgress is the first API version without the member of Progress.
const HadProgress = 52

// Progress is the bar that messages of older versions carry as text in
// "progress", for scripts that print it; "" if there is nothing to show.
func Progress(p *jsonstream.Progress) string {
	if p == nil || p.Current <= 0 && p.Total <= 0 {
		return ""
	}
	current := units.HumanSize(float64(p.Current))
	if p.Total <= 0 {
		return fmt.Sprintf("%8v", current)
	}
	const wide = 50
	done := min(max(int(p.Current*wide/p.Total), 0), wide)
	bar := "[" + strings.Repeat("=", done) + ">" + strings.Repeat(" ", wide-done) + "] "
	if p.Current > p.Total {
		return bar + fmt.Sprintf("%8v", current)
	}
	return bar + fmt.Sprintf("%8v/%v", current, units.HumanSize(float64(p.Total)))
}
