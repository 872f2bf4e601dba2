package image

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/distribution/reference"
)

// manyImages gives one image that many names, in one transaction.
func manyImages(b *testing.B, n int) *fixture {
	f := open(b, "")
	f.mustLoad(dockerArchive([]string{"first:1"}, nil, tarOf(file{name: "a"}), tarOf(file{name: "b"})))
	img := f.image("first:1")
	var puts []*record
	for i := range n {
		ref, err := reference.ParseNormalizedNamed(fmt.Sprintf("example.com/team/image%d:v1", i))
		if err != nil {
			b.Fatal(err)
		}
		puts = append(puts, named(img, ref))
	}
	f.change.Lock()
	defer f.change.Unlock()
	if _, err := f.commit(context.Background(), nil, puts); err != nil {
		b.Fatal(err)
	}
	return f
}

// What a container's start asks of the store.
func BenchmarkResolveLayers(b *testing.B) {
	f := manyImages(b, 1000)
	ctx := context.Background()
	for b.Loop() {
		img, err := f.Resolve(ctx, "first:1")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := f.Layers(ctx, img); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen1000(b *testing.B) {
	f := manyImages(b, 1000)
	var open time.Duration
	for b.Loop() {
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		at := time.Now()
		f.reopen()
		open += time.Since(at)
	}
	b.ReportMetric(float64(open.Milliseconds())/float64(b.N), "open-ms")
}
