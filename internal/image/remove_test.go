package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/snapshot"

	"github.com/wherry-engine/wherry/internal/image/manifest"
)

func (f *fixture) remove(ref string, force bool) string {
	list, err := f.Remove(context.Background(), ref, RemoveOptions{Force: force})
	if err != nil {
		kind := "?"
		switch {
		case errdefs.IsConflict(err):
			kind = "conflict"
		case errdefs.IsNotFound(err):
			kind = "not found"
		case errdefs.IsInvalidArgument(err):
			kind = "invalid"
		}
		return kind + ": " + err.Error()
	}
	var out []string
	for _, d := range list {
		if d.Untagged != "" {
			out = append(out, "Untagged: "+d.Untagged)
		} else {
			out = append(out, "Deleted: "+id.Short(d.Deleted))
		}
	}
	return strings.Join(out, "\n")
}

func TestRemoveRules(t *testing.T) {
	f := open(t, "")
	layer := tarOf(file{name: "a", body: "a"})
	archive := dockerArchive([]string{"a:1"}, nil, layer)
	var full, short string
	cid := strings.Repeat("c", 64)
	var users []Use
	f.SetUsers(func(image string) []Use {
		if image == full {
			return users
		}
		return nil
	})
	fresh := func(tags ...string) {
		t.Helper()
		users = nil
		f.mustLoad(archive)
		full = f.image("a:1").ID.String()
		short = id.Short(full)
		for _, tag := range tags {
			if err := f.Tag(context.Background(), "a:1", tag); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
	fresh("a:2", "b")
	check(f.remove("a:2", false), "Untagged: a:2")
	check(f.remove(short, false), "conflict: conflict: unable to delete "+short+" (must be forced) - image is referenced in multiple repositories")
	chain := id.Short(f.image("a:1").ChainID.String())
	check(f.remove(short[:6], true), "Untagged: a:1\nUntagged: b:latest\nDeleted: "+short+"\nDeleted: "+chain)
	f.wantEmpty()
	check(f.remove("a:1", false), "not found: No such image: a:1")
	check(f.remove(full, false), "not found: No such image: "+full)
	check(f.remove("A:1", false), "invalid: invalid reference format: repository name (library/A) must be lowercase")

	fresh()
	users = []Use{{Container: cid}}
	check(f.remove("a:1", false), `conflict: conflict: unable to remove repository reference "a:1" (must force) - container cccccccccccc is using its referenced image `+short)
	check(f.remove(short, false), "conflict: conflict: unable to delete "+short+" (must be forced) - image is being used by stopped container cccccccccccc")
	users[0].Running = true
	check(f.remove("a:1", true), "conflict: conflict: unable to delete "+short+" (cannot be forced) - image is being used by running container cccccccccccc")
	f.image("a:1")
	users = nil
	check(f.remove("a:1", false), "Untagged: a:1\nDeleted: "+short+"\nDeleted: "+chain)
	f.wantEmpty()

	f.events = nil
	fresh("x:y")
	f.remove("x:y", false)
	f.remove("a:1", false)
	want := []string{"load " + full, "tag x:y", "untag " + full, "untag " + full, "delete " + full}
	if !slices.Equal(f.events, want) {
		t.Errorf("events %q, want %q", f.events, want)
	}
}

// The nameless images that one was made from go with it: each is listed, and
// behind it the layers that it was the last to stand on.
func TestRemoveLists(t *testing.T) {
	f := open(t, "")
	f.mustLoad(dockerArchive([]string{"start:1"}, nil, busybox(), tarOf(file{name: "a", body: "a"})))
	from, want := f.image("start:1"), ""
	for i, ref := range []string{"", "", "last:1"} {
		made, err := f.Commit(t.Context(), Commit{Parent: from.ID, Layer: bytes.NewReader(tarOf(file{name: fmt.Sprint(i)})), Config: from.Config.Config, Ref: ref})
		if err != nil {
			t.Fatal(err)
		}
		from = f.image(made.String())
		want = "\nDeleted: " + id.Short(from.ID.String()) + "\nDeleted: " + id.Short(from.ChainID.String()) + want
	}
	if got := f.remove("last:1", false); got != "Untagged: last:1"+want {
		t.Errorf("got\n%s\nwant\nUntagged: last:1%s", got, want)
	}
}

// A container's layers outlive its image, and go with the container. What stays
// is not said to be deleted, whose ever it was.
func TestForcedRemoveKeepsContainer(t *testing.T) {
	f := open(t, "")
	ctx := context.Background()
	f.mustLoad(dockerArchive([]string{"a:1"}, nil, busybox()))
	lower, err := f.Layers(ctx, f.image("a:1"))
	if err != nil {
		t.Fatal(err)
	}
	cid := id.New()
	if _, err := f.Snapshots().CreateWritable(cid, lower, snapshot.WritableOptions{Volatile: true}); err != nil {
		t.Fatal(err)
	}
	f.mustLoad(dockerArchive([]string{"b:1"}, nil, busybox(), tarOf(file{name: "more"})))
	short, b := id.Short(f.image("a:1").ID.String()), f.image("b:1")
	if got, want := f.remove("a:1", true), "Untagged: a:1\nDeleted: "+short; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := f.remove("b:1", false), "Untagged: b:1\nDeleted: "+id.Short(b.ID.String())+"\nDeleted: "+id.Short(b.ChainID.String()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	f.restart()
	f.background.Wait()
	w, err := f.Snapshots().OpenWritable(cid, snapshot.Lower{})
	if err != nil {
		t.Fatal(err)
	}
	root := mountWritable(t, w)
	if _, err := os.Stat(filepath.Join(root, "bin/busybox")); err != nil {
		t.Error(err)
	}
	if !w.Volatile {
		t.Error("the layer forgot that it is volatile")
	}
	if err := f.Snapshots().RemoveWritable(cid); err != nil {
		t.Fatal(err)
	}
	if err := f.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	f.wantEmpty()
}

func TestTagErrorsAndMoves(t *testing.T) {
	f := open(t, "")
	ctx := context.Background()
	f.mustLoad(dockerArchive([]string{"a:1"}, map[string]string{"n": "1"}, tarOf(file{name: "a"})))
	for target, want := range map[string]string{
		"A":                                   "invalid reference format: repository name (library/A) must be lowercase",
		"":                                    "invalid reference format",
		"sha256:x":                            "refusing to create an ambiguous tag using digest algorithm as name",
		"x@sha256:" + strings.Repeat("0", 64): "refusing to create a tag with a digest reference",
	} {
		if err := f.Tag(ctx, "a:1", target); err == nil || err.Error() != want || !errdefs.IsInvalidArgument(err) {
			t.Errorf("tag %q: %v, want %q", target, err, want)
		}
	}
	if err := f.Tag(ctx, "nope", "x"); err == nil || err.Error() != "No such image: nope:latest" {
		t.Errorf("tag of nothing: %v", err)
	}
	first := f.image("a:1").ID
	out := f.mustLoad(dockerArchive([]string{"a:1"}, map[string]string{"n": "2"}, tarOf(file{name: "b"})))
	if want := fmt.Sprintf("The image a:1 already exists, renaming the old one with ID %s to empty string\nLoaded image: a:1\n", first); out != want {
		t.Errorf("messages %q, want %q", out, want)
	}
	f.restart()
	ids := func(a filter.Args) (out []string) {
		list, err := f.List(ctx, ListOptions{Filters: a})
		if err != nil {
			return []string{err.Error()}
		}
		for _, s := range list {
			out = append(out, s.ID+" "+strings.Join(s.RepoTags, ","))
		}
		return out
	}
	if got := ids(filter.Args{"dangling": {"true"}}); len(got) != 1 || got[0] != first.String()+" " {
		t.Errorf("dangling: %v", got)
	}
	if got := ids(filter.Args{"reference": {"a:*"}}); len(got) != 1 || got[0] != f.image("a:1").ID.String()+" a:1" {
		t.Errorf("reference: %v", got)
	}
	if got := ids(filter.Args{"label!": {"n=1"}}); len(got) != 1 {
		t.Errorf("label!: %v", got)
	}
	if got := ids(filter.Args{"nope": {"1"}}); got[0] != "invalid filter 'nope'" {
		t.Errorf("unknown filter: %v", got)
	}
	if got := ids(filter.Args{"before": {"zzz"}}); got[0] != "No such image: zzz:latest" {
		t.Errorf("before: %v", got)
	}
	if err := f.Tag(ctx, first.String(), "back"); err != nil {
		t.Fatal(err)
	}
	if got := ids(filter.Args{"dangling": {"true"}}); len(got) != 0 {
		t.Errorf("dangling after tag: %v", got)
	}
	out = f.mustLoad(dockerArchive(nil, nil, tarOf(file{name: "c"})))
	if !strings.HasPrefix(out, "Loaded image ID: sha256:") {
		t.Errorf("messages %q", out)
	}
	if _, n, err := f.Prune(ctx, false, nil, alone); err != nil || n == 0 {
		t.Errorf("prune: %d %v", n, err)
	}
	if got := ids(nil); len(got) != 2 {
		t.Errorf("after prune: %v", got)
	}
}

func TestDamagedArchives(t *testing.T) {
	f := open(t, "")
	good := dockerArchive([]string{"a:1"}, nil, busybox(), gz(tarOf(file{name: "x", body: "x"})))
	wrong := bytes.Clone(good)
	mark := []byte(`"diff_ids":["sha256:`)
	copy(wrong[bytes.Index(wrong, mark)+len(mark):], "0000")
	layers := make([][]byte, 128)
	for i := range layers {
		layers[i] = tarOf(file{name: fmt.Sprint(i)})
	}
	index := func(s string) []byte {
		return tarOf(file{name: "oci-layout", body: "{}"}, file{name: "index.json", body: s})
	}
	for name, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"cut":       {good[:len(good)/2], "unexpected EOF"},
		"empty":     {nil, "neither a manifest.json nor an index.json"},
		"no image":  {busybox(), "neither a manifest.json nor an index.json"},
		"layers":    {dockerArchive([]string{"a:1"}, nil, layers...), "max depth exceeded"},
		"diffID":    {wrong, "diffID"},
		"big":       {tarOf(file{name: "manifest.json", body: strings.Repeat(" ", manifest.MaxSize+1)}), "more than"},
		"ambiguous": {index(`{"schemaVersion":2,"manifests":[],"layers":[]}`), "ambiguous"},
		"case":      {index(`{"schemaVersion":2,"manifests":[],"Layers":[]}`), "ambiguous"},
		"schema 1":  {index(`{"schemaVersion":1,"manifests":[]}`), "schema version 1"},
		"missing":   {index(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":2,"digest":"sha256:` + strings.Repeat("a", 64) + `"}]}`), "not found"},
		"media":     {index(`{"schemaVersion":2,"manifests":[{"mediaType":"x/y","size":2,"digest":"sha256:` + strings.Repeat("a", 64) + `"}]}`), "unsupported media type"},
		"digest":    {tarOf(file{name: "blobs/sha256/" + strings.Repeat("a", 64), body: "x"}), "does not match its digest"},
		"twice":     {tarOf(file{name: "index.json", body: "{}"}, file{name: "./index.json", body: "{}"}), "twice"},
		"escape":    {tarOf(file{name: "manifest.json", body: `[{"Config":"../../../../etc/passwd","Layers":[]}]`}), "missing"},
		"loop":      {tarOf(file{name: "a", h: linkTo("b")}, file{name: "b", h: linkTo("a")}, file{name: "manifest.json", body: `[{"Config":"a","Layers":[]}]`}), "missing"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := f.load(c.archive)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("load: %q, %v, want an error with %q", out, err, c.want)
			}
			f.wantEmpty()
		})
	}
	f.mustLoad(good)
}
