package buildcontext

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/continuity/sysx"
	"github.com/moby/buildkit/cache/contenthash"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/test/promise"
)

// entry is one of an archive.
type entry struct {
	h    *tar.Header
	data []byte
}

func archiveOf(t *testing.T, list []entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range list {
		if e.h.Typeflag == tar.TypeReg && e.h.Size == 0 {
			e.h.Size = int64(len(e.data))
		}
		if err := w.WriteHeader(e.h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	return out.Bytes()
}

// packed gives the entries of a tree, in the order of its names.
func packed(t *testing.T, dir string) (list []entry) {
	t.Helper()
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		to, _ := os.Readlink(path)
		h, err := tar.FileInfoHeader(fi, to)
		if err != nil {
			return err
		}
		h.Name, h.Format, h.AccessTime, h.ChangeTime = path[len(dir)+1:], tar.FormatPAX, time.Time{}, time.Time{}
		if d.IsDir() {
			h.Name += "/"
		}
		e := entry{h: h}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		switch {
		case !fi.Mode().IsRegular():
		case first[st.Ino] != "":
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first[st.Ino], 0
		default:
			first[st.Ino] = h.Name
			if e.data, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		names, _ := sysx.LListxattr(path)
		for _, n := range names {
			v, err := sysx.LGetxattr(path, n)
			if err != nil {
				return err
			}
			h.PAXRecords = map[string]string{"SCHILY.xattr." + n: string(v)}
		}
		list = append(list, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func unpackInto(dir string, l *locked, changes *int, r io.Reader) error {
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	u := &unpacker{hashes: l, stop: stop, changing: func() error { *changes++; return nil }}
	return u.unpack(ctx, newAhead(ctx, r), dir)
}

// TestArchiveLikeDirectory changes a tree in many ways, posts it after each,
// and compares what arrives, and what the cache is told, with BuildKit's own
// way of directories.
func TestArchiveLikeDirectory(t *testing.T) {
	promise.Root(t)
	for _, order := range []string{"sorted", "backwards", "large files"} {
		t.Run(order, func(t *testing.T) {
			from, ours, theirs := t.TempDir(), t.TempDir(), t.TempDir()
			a, b := newKnown(), newKnown()
			for _, step := range steps(from) {
				if err := step.do(); err != nil {
					t.Fatal(step.name, err)
				}
				if order == "large files" {
					// Beyond what is kept in memory, with a change at the start, in the middle, and behind the end.
					text := bytes.Repeat([]byte("0123456789abcdef"), 50_000)
					copy(text[len(step.name)*9000%len(text):], step.name)
					when := time.Unix(100, 0)
					if err := errors.Join(os.WriteFile(from+"/large", text, 0o644), os.Chtimes(from+"/large", when, when)); err != nil {
						t.Fatal(err)
					}
				}
				list := packed(t, from)
				if order == "backwards" {
					slices.Reverse(list)
					// A link comes behind what it means.
					slices.SortStableFunc(list, func(x, y entry) int { return int(x.h.Typeflag&1) - int(y.h.Typeflag&1) })
				}
				changes := 0
				if err := unpackInto(ours, a, &changes, bytes.NewReader(archiveOf(t, list))); err != nil {
					t.Fatal(step.name, err)
				}
				if order == "sorted" && !strings.Contains(listing(t, from, false), "user.x") && (changes == 0) != step.nothing || changes > 1 {
					t.Errorf("%s: %d changes", step.name, changes)
				}
				if order == "large files" {
					theirs, b = t.TempDir(), newKnown() // BuildKit looks at sizes and times only
				}
				err := transfer(t, from, func(ctx context.Context, e *end) error {
					return fsutil.Receive(ctx, e, theirs, fsutil.ReceiveOpt{NotifyHashed: b.HandleChange, ContentHasher: contenthash.NewFromStat})
				})
				if err != nil {
					t.Fatal(step.name, err)
				}
				if got, want := listing(t, ours, true), listing(t, from, true); got != want {
					t.Fatalf("%s: there is\n%s\nthe source is\n%s", step.name, got, want)
				}
				if got, want := a.String(), b.String(); got != want {
					t.Fatalf("%s: the cache knows\n%s\nby BuildKit\n%s", step.name, got, want)
				}
			}
		})
	}
}

func packedFile(name, text string) entry {
	return entry{&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: time.Unix(5, 0)}, []byte(text)}
}

func packedAs(kind byte, name, to string) entry {
	return entry{h: &tar.Header{Typeflag: kind, Name: name, Linkname: to, Mode: 0o755, ModTime: time.Unix(5, 0)}}
}

// TestArchives are those that no walk over a tree makes, each over what another
// one left.
func TestArchives(t *testing.T) {
	promise.Root(t)
	before := []entry{
		packedAs(tar.TypeSymlink, "out", "/"), packedAs(tar.TypeSymlink, "up", "../.."), packedFile("f", "old"), packedFile("d/f", "old"), packedFile("e/f", "old"),
	}
	for _, c := range []struct {
		name    string
		entries []entry
		files   string // that are there, with their text
	}{
		{"upwards", []entry{packedFile("../../x", "1"), packedFile("/y", "2")}, "/x 1 /y 2"},
		{"where a link was", []entry{packedFile("out/x", "1"), packedFile("up/y", "2")}, "/out/x 1 /up/y 2"},
		{"where a directory was", []entry{packedFile("d", "1"), packedAs(tar.TypeSymlink, "e", "d")}, "/d 1 /e->d"},
		{"where a file was", []entry{packedFile("f/x", "1")}, "/f/x 1"},
		{"through a link", []entry{packedAs(tar.TypeDir, "real", ""), packedAs(tar.TypeSymlink, "l", "real"), packedFile("l/x", "1"), packedFile("real/y", "2"), packedFile("l/z", "3")}, "/l->real /real/x 1 /real/y 2 /real/z 3"},
		{"through a link to above", []entry{packedAs(tar.TypeSymlink, "l", "../../../etc"), packedFile("l/x", "1")}, "/etc/x 1 /l->../../../etc"},
		{"through an absolute link", []entry{packedAs(tar.TypeSymlink, "l", "/a/b"), packedFile("l/x", "1")}, "/a/b/x 1 /l->/a/b"},
		{"through two links", []entry{packedAs(tar.TypeSymlink, "a", "b"), packedAs(tar.TypeSymlink, "b", "/c"), packedFile("a/x", "1")}, "/a->b /b->/c /c/x 1"},
		{"twice", []entry{packedFile("f", "1"), packedFile("f", "22"), packedFile("d/f", "old"), packedFile("d/f", "new")}, "/d/f new /f 22"},
		{"twice, as it was and not", []entry{packedFile("f", "old"), packedFile("f", "new"), packedFile("f", "old"), packedFile("f", "end")}, "/f end"},
		{"a link in the place of a file", []entry{packedFile("f", "1"), packedAs(tar.TypeSymlink, "f", "x")}, "/f->x"},
		{"a directory in the place of a file", []entry{packedFile("x", "1"), packedAs(tar.TypeDir, "x", ""), packedFile("x/y", "2")}, "/x/y 2"},
		{"a file in the place of a directory", []entry{packedFile("x/y/z", "1"), packedFile("x/a", "2"), packedFile("x", "3")}, "/x 3"},
		{"a file in the place of a directory that was there", []entry{packedFile("d/f", "old"), packedFile("d/g", "1"), packedFile("d", "2")}, "/d 2"},
		{"a link in the place of a directory", []entry{packedFile("x/y", "1"), packedAs(tar.TypeDir, "z", ""), packedAs(tar.TypeSymlink, "x", "z"), packedFile("x/y", "2")}, "/x->z /z/y 2"},
		{"a further name in the place of a directory", []entry{packedFile("f", "1"), packedFile("x/y", "2"), packedAs(tar.TypeLink, "x", "f")}, "/f 1 /x 1"},
		{"a directory, a file and a directory", []entry{packedFile("x/y/a", "1"), packedFile("x", "2"), packedAs(tar.TypeDir, "x", ""), packedFile("x/y/b", "3"), packedFile("x/y", "4"), packedFile("x/c", "5")}, "/x/c 5 /x/y 4"},
		{"a further name", []entry{packedFile("a/f", "1"), packedAs(tar.TypeLink, "b/g", "../a/f"), packedAs(tar.TypeLink, "f", "/a/f")}, "/a/f 1 /b/g 1 /f 1"},
		{"a further name of one that is replaced", []entry{packedFile("f", "1"), packedAs(tar.TypeLink, "g", "f"), packedFile("f", "2")}, "/f 2 /g 1"},
		{"a further name of a link", []entry{packedAs(tar.TypeSymlink, "l", "/etc/passwd"), packedAs(tar.TypeLink, "g", "l")}, "/g->/etc/passwd /l->/etc/passwd"},
		{"nothing", nil, ""},
		{"itself", []entry{packedAs(tar.TypeDir, "./", ""), packedFile("./f", "1")}, "/f 1"},
		{"devices", []entry{packedAs(tar.TypeChar, "null", ""), packedAs(tar.TypeFifo, "p", "")}, "/null /p"},
	} {
		t.Run(c.name, func(t *testing.T) {
			above := t.TempDir()
			to := above + "/to"
			if err := os.Mkdir(to, 0o755); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time over itself
				n := 0
				if err := unpackInto(to, newKnown(), &n, bytes.NewReader(archiveOf(t, before))); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					if err := unpackInto(to, newKnown(), &n, bytes.NewReader(archiveOf(t, c.entries))); err != nil {
						t.Fatal(err)
					}
					if got := texts(t, to); got != c.files {
						t.Errorf("there is %q, not %q", got, c.files)
					}
				}
			}
			if list, _ := os.ReadDir(above); len(list) != 1 {
				t.Errorf("it got out: %v", list)
			}
		})
	}
}

func texts(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text := path[len(dir):]
		switch {
		case d.Type().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += " " + string(b)
		case d.Type()&os.ModeSymlink != 0:
			to, _ := os.Readlink(path)
			text += "->" + to
		}
		out = append(out, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

// TestHostileArchives are refused, with what is wrong.
func TestHostileArchives(t *testing.T) {
	promise.Root(t)
	whole := archiveOf(t, []entry{packedFile("a", "text"), packedFile("b", strings.Repeat("x", 600<<10))})
	owner := packedFile("a", "")
	owner.h.Uid, owner.h.Format = 1<<40, tar.FormatGNU
	huge := packedFile("huge", "")
	huge.h.Size = 1 << 60
	var announced bytes.Buffer
	if err := tar.NewWriter(&announced).WriteHeader(huge.h); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		archive []byte
		want    string
	}{
		{"no archive", []byte("FROM scratch\n" + strings.Repeat("#", 1000)), "invalid tar header"},
		{"cut in a header", whole[:1300], "unexpected EOF"},
		{"cut in a small file", whole[:514], "unexpected EOF"},
		{"cut in a large file", whole[:300<<10], "unexpected EOF"},
		{"larger than the disk", announced.Bytes(), "no space left on device"},
		{"nobody's", archiveOf(t, []entry{owner}), "belongs to"},
		{"links in a circle", archiveOf(t, []entry{packedAs(tar.TypeSymlink, "a", "b"), packedAs(tar.TypeSymlink, "b", "a"), packedFile("a/x", "")}), "too many levels"},
		{"a link that grows", archiveOf(t, []entry{packedAs(tar.TypeSymlink, "a", "a/a"), packedFile("a/x", "")}), "too many levels"},
		{"in a file", archiveOf(t, []entry{packedFile("a", ""), packedFile("a/x", "")}), "not a directory"},
		{"a further name of nothing", archiveOf(t, []entry{packedAs(tar.TypeLink, "a", "b")}), "no such file"},
		{"a further name of what was there", archiveOf(t, []entry{packedAs(tar.TypeLink, "a", "was")}), "no such file"},
		{"a further name of a file outside", archiveOf(t, []entry{packedAs(tar.TypeLink, "a", "../../../../etc/passwd")}), "no such file"},
		{"a further name of a directory", archiveOf(t, []entry{packedAs(tar.TypeDir, "d", ""), packedAs(tar.TypeLink, "a", "d")}), "cannot be a link"},
		{"a further name of all", archiveOf(t, []entry{packedAs(tar.TypeLink, "a", "/")}), "no such file"},
		{"a file of itself", archiveOf(t, []entry{packedAs(tar.TypeLink, "a", "a")}), "cannot be a link"},
		{"a file of what it takes the place of", archiveOf(t, []entry{packedFile("d/x", ""), packedAs(tar.TypeLink, "d", "d/x")}), "cannot be a link"},
		{"of no kind", archiveOf(t, []entry{packedAs('V', "a", "")}), "unhandled tar header type"},
		{"a name too long", archiveOf(t, []entry{packedFile(strings.Repeat("x", 300), "")}), "file name too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			to, n := t.TempDir(), 0
			if err := unpackInto(to, newKnown(), &n, bytes.NewReader(archiveOf(t, []entry{packedFile("was", "")}))); err != nil {
				t.Fatal(err)
			}
			err := unpackInto(to, newKnown(), &n, bytes.NewReader(c.archive))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			if err != nil && strings.Contains(err.Error(), to) {
				t.Errorf("it names the engine's directory: %v", err)
			}
		})
	}
}

// TestSlowArchive ends with the build, whatever the client does.
func TestSlowArchive(t *testing.T) {
	promise.Root(t)
	ctx, stop := context.WithCancelCause(context.Background())
	r, w := io.Pipe()
	defer w.Close()
	ended, to := make(chan error), t.TempDir()
	go func() {
		u := &unpacker{hashes: newKnown(), stop: stop, changing: func() error { return nil }}
		ended <- u.unpack(ctx, newAhead(ctx, r), to)
	}()
	whole := archiveOf(t, []entry{packedFile("b", strings.Repeat("x", 600<<10))})
	if _, err := w.Write(whole[:300<<10]); err != nil {
		t.Fatal(err)
	}
	stop(errors.New("enough"))
	if err := <-ended; err == nil || err.Error() != "enough" {
		t.Error(err)
	}
}

// TestLayersKeepTheirs posts another file in the place of one that a layer has.
func TestLayersKeepTheirs(t *testing.T) {
	promise.Root(t)
	to, layer, l, n := t.TempDir(), t.TempDir(), newKnown(), 0
	texts := []string{"one", "two", "2+1", strings.Repeat("x", 600<<10), strings.Repeat("x", 600<<10-1) + "y"}
	for i, text := range texts {
		if err := unpackInto(to, l, &n, bytes.NewReader(archiveOf(t, []entry{packedFile("f", text)}))); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(to+"/f", fmt.Sprint(layer, "/", i)); err != nil {
			t.Fatal(err)
		}
	}
	for i, text := range texts {
		if b, err := os.ReadFile(fmt.Sprint(layer, "/", i)); string(b) != text {
			t.Errorf("layer %d has %d bytes, %v", i, len(b), err)
		}
	}
}

// TestOverlayAttributes are not the client's to set.
func TestOverlayAttributes(t *testing.T) {
	promise.Root(t)
	from, received, posted, n := t.TempDir(), t.TempDir(), t.TempDir(), 0
	if err := errors.Join(os.Mkdir(from+"/d", 0o755), unix.Setxattr(from+"/d", "trusted.overlay.opaque", []byte("y"), 0), unix.Setxattr(from+"/d", "user.kept", []byte("1"), 0)); err != nil {
		t.Fatal(err)
	}
	if err := transfer(t, from, receiverInto(received, newKnown(), &n)); err != nil {
		t.Fatal(err)
	}
	d := packedAs(tar.TypeDir, "d", "")
	d.h.PAXRecords = map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.kept": "1"}
	if err := unpackInto(posted, newKnown(), &n, bytes.NewReader(archiveOf(t, []entry{d}))); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{received, posted} {
		if names, err := sysx.LListxattr(dir + "/d"); err != nil || !slices.Equal(names, []string{"user.kept"}) {
			t.Errorf("%v %v", names, err)
		}
	}
}
