package image

import (
	"context"
	"testing"
)

func BenchmarkOpenEmpty(b *testing.B) {
	f := open(b, "")
	for b.Loop() {
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		s, err := Open(context.Background(), f.config)
		if err != nil {
			b.Fatal(err)
		}
		f.Store = s
	}
}
