package build

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/patternmatcher"
)

// badPattern names the line of .dockerignore that a build failed of, which the
// error, as it comes from the reading of the context, does not.
func (o *options) badPattern(err error) error {
	if err == nil || !strings.Contains(err.Error(), filepath.ErrBadPattern.Error()) {
		return err
	}
	own := cmp.Or(o.file, filepath.Join(o.context, dockerfile)) + ".dockerignore"
	for _, file := range []string{own, filepath.Join(o.context, ".dockerignore")} {
		b, rerr := os.ReadFile(file)
		if rerr != nil {
			continue
		}
		n := 0
		for line := range strings.Lines(string(b)) {
			n++
			line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "!"))
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if _, perr := patternmatcher.MatchesOrParentMatches("x", []string{line}); perr != nil && errors.Is(perr, filepath.ErrBadPattern) {
				return fmt.Errorf("%s, line %d: %q: %w", file, n, line, err)
			}
		}
		break // the second is not read where the first is
	}
	return err
}
