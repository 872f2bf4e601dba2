package image

import (
	"fmt"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/internal/image/archive"
)

// TestManyNames: a small archive may give an image very many names; so many are
// taken, and more are refused before they keep the engine busy.
func TestManyNames(t *testing.T) {
	f := open(t, "")
	var tags []string
	for i := range archive.MaxNames + 1 {
		tags = append(tags, fmt.Sprint("x:", i))
	}
	if got := f.mustLoad(dockerArchive(tags[:archive.MaxNames], nil, busybox())); strings.Count(got, "Loaded image: ") != archive.MaxNames {
		t.Errorf("%d names", strings.Count(got, "Loaded image: "))
	}
	if _, err := f.load(dockerArchive(tags, nil, busybox())); err == nil || !strings.Contains(err.Error(), "more than 10000 names") {
		t.Error(err)
	}
}
