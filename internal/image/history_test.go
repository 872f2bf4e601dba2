package image

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestHistoryOfCommits: the images that one was made from here are named.
func TestHistoryOfCommits(t *testing.T) {
	f := open(t, "overlay2")
	f.mustLoad(dockerArchive([]string{"base:1"}, nil, tarOf(file{name: "a", body: "a"})))
	base := f.image("base:1")
	now := time.Now()
	commit := func(from *Image, name string) *Image {
		t.Helper()
		if _, err := f.Commit(t.Context(), Commit{Parent: from.ID, Config: from.Config.Config, History: ocispec.History{Created: &now, CreatedBy: name}, Ref: name}); err != nil {
			t.Fatal(err)
		}
		return f.image(name)
	}
	one := commit(base, "one:1")
	two := commit(one, "two:1")
	shown := func() (out []string) {
		t.Helper()
		h, err := f.History(t.Context(), "two:1", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range h {
			out = append(out, item.ID+" "+strings.Join(item.Tags, ","))
		}
		return out
	}
	want := []string{two.ID.String() + " two:1", one.ID.String() + " one:1", base.ID.String() + " base:1", "<missing> "}
	if got := shown(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("history\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestLongHistory: an image may claim hundreds of thousands of steps; to list
// them takes as much memory as they have.
func TestLongHistory(t *testing.T) {
	f := open(t, "overlay2")
	layer := tarOf(file{name: "a", body: "a"})
	const steps = 20000
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": []digest.Digest{digest.FromBytes(layer)}},
		"history": append([]map[string]any{{"created_by": "first"}}, make([]map[string]any, steps)...),
	})
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(config), "null", `{"empty_layer":true}`)
	f.mustLoad(tarOf(file{name: "c.json", body: text}, file{name: "l.tar", body: string(layer)},
		file{name: "manifest.json", body: `[{"Config":"c.json","RepoTags":["long:1"],"Layers":["l.tar"]}]`}))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	h, err := f.History(t.Context(), "long:1", nil)
	runtime.ReadMemStats(&after)
	if err != nil || len(h) != steps+1 || h[steps].CreatedBy != "first" {
		t.Fatal(len(h), err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 100<<20 {
		t.Errorf("%d steps took %d MB", steps, n>>20)
	}
}
