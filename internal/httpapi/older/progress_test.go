package older

import (
	"testing"

	"github.com/moby/moby/api/types/jsonstream"
)

// TestProgress: what docker.io 20.10 sent.
func TestProgress(t *testing.T) {
	for _, c := range []struct {
		current, total int64
		want           string
	}{
		{0, 0, ""},
		{36451, 3001134, "[>                                                  ]  36.45kB/3.001MB"},
		{163840, 3001134, "[==>                                                ]  163.8kB/3.001MB"},
		{5001730, 5001730, "[==================================================>]  5.002MB/5.002MB"},
		{2048, 1024, "[==================================================>]  2.048kB"},
		{1981952, 0, " 1.982MB"},
	} {
		if got := Progress(&jsonstream.Progress{Current: c.current, Total: c.total}); got != c.want {
			t.Errorf("%d of %d: %q, want %q", c.current, c.total, got, c.want)
		}
	}
	if got := Progress(nil); got != "" {
		t.Error(got)
	}
}
