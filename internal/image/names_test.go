package image

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/jsonstream"

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

// TestLoadingClientIsSlow: others change names while a client that loads does
// not read what it is told.
func TestLoadingClientIsSlow(t *testing.T) {
	f := open(t, "")
	archive := dockerArchive([]string{"a:1"}, nil, busybox())
	loaded, tagged := make(chan struct{}), make(chan error, 1)
	go func() {
		<-loaded
		tagged <- f.Tag(t.Context(), "a:1", "b:1")
	}()
	err := f.Load(t.Context(), bytes.NewReader(archive), false, nil, func(m jsonstream.Message) {
		if !strings.HasPrefix(m.Stream, "Loaded image") {
			return
		}
		close(loaded)
		select {
		case err := <-tagged:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("the names stay locked")
		}
	})
	if err != nil {
		t.Error(err)
	}
}
