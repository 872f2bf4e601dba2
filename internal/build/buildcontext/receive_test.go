package buildcontext

import (
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
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/contenthash"
	"github.com/moby/buildkit/session"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/test/promise"
)

// end is one end of a stream.
type end struct {
	ctx context.Context
	in  <-chan []byte
	out chan<- []byte
}

func pair(ctx context.Context) (a, b *end) {
	there, back := make(chan []byte, 4), make(chan []byte, 4)
	return &end{ctx, back, there}, &end{ctx, there, back}
}

func (e *end) Context() context.Context { return e.ctx }

func (e *end) SendMsg(m any) error {
	b, err := m.(*types.Packet).MarshalVT()
	if err != nil {
		return err
	}
	select {
	case e.out <- b:
		return nil
	case <-e.ctx.Done():
		return e.ctx.Err()
	}
}

func (e *end) RecvMsg(m any) error {
	select {
	case b, ok := <-e.in:
		if !ok {
			return io.EOF
		}
		return m.(*types.Packet).UnmarshalVT(b)
	case <-e.ctx.Done():
		return e.ctx.Err()
	}
}

// known is what the cache was told.
type known map[string]string

func (k known) Checksum(context.Context, cache.Mountable, string, contenthash.ChecksumOpts, session.Group) (digest.Digest, error) {
	return "", errors.New("not here")
}

type locked struct {
	contenthash.CacheContext
	all chan known
}

func (l *locked) HandleChange(kind fsutil.ChangeKind, p string, fi os.FileInfo, err error) error {
	k := <-l.all
	defer func() { l.all <- k }()
	for name := range k {
		if name == p || strings.HasPrefix(name, p+"/") && (kind == fsutil.ChangeKindDelete || !fi.IsDir()) {
			delete(k, name)
		}
	}
	if kind == fsutil.ChangeKindDelete {
		return nil
	}
	st := fi.Sys().(*types.Stat)
	k[p] = fi.(contenthash.Hashed).Digest().String()
	if st.Linkname != "" && fi.Mode().IsRegular() {
		// A further name has the digest of the first, which may come later; see String.
		k[p] = pending + st.Linkname
	}
	return nil
}

const pending = "that of "

func newKnown() *locked {
	l := &locked{all: make(chan known, 1)}
	l.all <- known{}
	return l
}

func (l *locked) String() string {
	k := <-l.all
	defer func() { l.all <- k }()
	var list []string
	for p, d := range k {
		if first, ok := strings.CutPrefix(d, pending); ok {
			d = k[first]
			k[p] = d
		}
		list = append(list, p+" "+d)
	}
	slices.Sort(list)
	return strings.Join(list, "\n")
}

// transfer sends from; receive gets the other end.
func transfer(t *testing.T, from string, receive func(context.Context, *end) error) error {
	t.Helper()
	return transferThrough(t, from, &counted{bytes: map[uint32]int{}}, receive)
}

// transferThrough has the sender's end be in sent, which counts.
func transferThrough(t *testing.T, from string, sent *counted, receive func(context.Context, *end) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	a, b := pair(ctx)
	source, err := fsutil.NewFS(from)
	if err != nil {
		t.Fatal(err)
	}
	sent.end = a
	ended := make(chan error, 1)
	go func() {
		err := fsutil.Send(ctx, sent, source, nil)
		close(a.out)
		ended <- err
	}()
	err = receive(ctx, b)
	if err == nil {
		err = <-ended
	}
	return err
}

func receiverInto(dir string, l *locked, changes *int) func(context.Context, *end) error {
	return borrowerInto(dir, l, changes, nil)
}

// borrowerInto is one to whom something is lent.
func borrowerInto(dir string, l *locked, changes *int, from *loans) func(context.Context, *end) error {
	return func(ctx context.Context, e *end) error {
		ctx, abort := context.WithCancelCause(ctx)
		e.ctx = ctx
		return (&receiver{hashes: l, loans: from, progress: func(int, bool) {}, abort: abort, changing: func() error { *changes++; return nil }}).run(ctx, e, dir)
	}
}

func listing(t *testing.T, dir string, times bool) string {
	t.Helper()
	var out strings.Builder
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel := path[len(dir):]
		fmt.Fprintf(&out, "%s %o %d:%d %x", rel, st.Mode, st.Uid, st.Gid, st.Rdev)
		if times || !d.IsDir() {
			fmt.Fprintf(&out, " %d", st.Mtim.Nano())
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " %s", digest.FromBytes(b))
			if first[st.Ino] != "" {
				fmt.Fprintf(&out, " is %s", first[st.Ino])
			} else {
				first[st.Ino] = rel
			}
		case unix.S_IFLNK:
			to, _ := os.Readlink(path)
			fmt.Fprintf(&out, " -> %s", to)
		}
		names, _ := sysx.LListxattr(path)
		for _, n := range names {
			v, _ := sysx.LGetxattr(path, n)
			fmt.Fprintf(&out, " %s=%s", n, v)
		}
		out.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// step is a change of a tree.
type step struct {
	name    string
	do      func() error
	nothing bool // nothing is to be changed
}

// steps change the tree from in many ways.
func steps(from string) []step {
	at := func(name string) string { return filepath.Join(from, name) }
	write := func(name string, size int) error {
		return os.WriteFile(at(name), bytes.Repeat([]byte(name), size), 0o644)
	}
	return []step{
		{"an empty one", func() error { return nil }, true},
		{"all kinds", func() error {
			return errors.Join(os.Mkdir(at("d"), 0o755), os.Mkdir(at("d/e"), 0o700), write("d/e/f", 1), write("a", 0), write("b", 1<<18), write("d/big", 1<<20),
				write("z", 70000), os.Link(at("a"), at("d/link")), os.Link(at("b"), at("y")), os.Symlink("a", at("s")), unix.Mkfifo(at("p"), 0o640), unix.Mknod(at("dev"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))),
				os.Chmod(at("d/e/f"), 0o755|os.ModeSetuid), os.Chown(at("d/e"), 5, 6), os.Chmod(at("d"), 0o755|os.ModeSetgid), os.Chown(at("d"), 0, 9), unix.Setxattr(at("z"), "user.x", []byte("1"), 0),
				os.Chtimes(at("d"), time.Unix(1, 0), time.Unix(1, 5)))
		}, false},
		{"nothing", func() error { return nil }, true},
		{"contents", func() error { return errors.Join(write("d/e/f", 2), write("z", 3), write("new", 4)) }, false},
		{"a mode", func() error { return os.Chmod(at("b"), 0o600) }, false},
		{"another link", func() error { return errors.Join(os.Remove(at("s")), os.Symlink("b", at("s"))) }, false},
		{"a directory becomes a file", func() error { return errors.Join(os.RemoveAll(at("d/e")), write("d/e", 1)) }, false},
		{"a file becomes a directory", func() error { return errors.Join(os.Remove(at("z")), os.Mkdir(at("z"), 0o755), write("z/in", 1)) }, false},
		{"a second name gone", func() error { return os.Remove(at("y")) }, false},
		{"a first name gone", func() error { return os.Remove(at("a")) }, false},
		{"two names become two files", func() error {
			return errors.Join(os.Link(at("b"), at("c")), os.Chtimes(at("b"), time.Unix(7, 0), time.Unix(7, 0)))
		}, false},
		{"and differ", func() error {
			text, err := os.ReadFile(at("c"))
			return errors.Join(err, os.Remove(at("c")), os.WriteFile(at("c"), bytes.ToUpper(text), 0o600), os.Chmod(at("c"), 0o600), os.Chtimes(at("c"), time.Unix(7, 0), time.Unix(7, 0)))
		}, false},
		{"many", func() error {
			var errs []error
			for i := range 700 {
				if i%70 == 0 {
					errs = append(errs, os.Mkdir(at(fmt.Sprint("m", i)), 0o755))
				}
				errs = append(errs, write(fmt.Sprintf("m%d/%d", i/70*70, i), i))
			}
			return errors.Join(errs...)
		}, false},
		{"large ones at once", func() error {
			return errors.Join(write("1", 3<<20), write("2", 3<<20), write("3", 3<<20), write("4", 3<<20), write("5", 3<<20))
		}, false},
		{"all gone", func() error {
			list, err := os.ReadDir(from)
			for _, e := range list {
				err = errors.Join(err, os.RemoveAll(at(e.Name())))
			}
			return err
		}, false},
	}
}

// TestLikeBuildKit changes a tree in many ways, sends it after each, and
// compares what arrives, and what the cache is told, with BuildKit's own.
func TestLikeBuildKit(t *testing.T) {
	promise.Root(t)
	likeBuildKit(t, t.TempDir(), t.TempDir(), func() *loans { return nil })
}

func likeBuildKit(t *testing.T, from, ours string, lent func() *loans) {
	t.Helper()
	theirs := t.TempDir()
	a, b := newKnown(), newKnown()
	for _, step := range steps(from) {
		if err := step.do(); err != nil {
			t.Fatal(step.name, err)
		}
		changes := 0
		if err := transfer(t, from, borrowerInto(ours, a, &changes, lent())); err != nil {
			t.Fatal(step.name, err)
		}
		if (changes == 0) != step.nothing || changes > 1 {
			t.Errorf("%s: %d changes", step.name, changes)
		}
		err := transfer(t, from, func(ctx context.Context, e *end) error {
			return fsutil.Receive(ctx, e, theirs, fsutil.ReceiveOpt{NotifyHashed: b.HandleChange, ContentHasher: contenthash.NewFromStat})
		})
		if err != nil {
			t.Fatal(step.name, err)
		}
		if got, want := listing(t, ours, false), listing(t, theirs, false); got != want {
			t.Fatalf("%s: there is\n%s\nby BuildKit\n%s", step.name, got, want)
		}
		if got, want := listing(t, ours, true), listing(t, from, true); got != want {
			t.Fatalf("%s: there is\n%s\nthe source is\n%s", step.name, got, want)
		}
		if got, want := a.String(), b.String(); got != want {
			t.Fatalf("%s: the cache knows\n%s\nby BuildKit\n%s", step.name, got, want)
		}
	}
}

// TestSharedFilesStay replaces a file that a layer has a link to.
func TestSharedFilesStay(t *testing.T) {
	promise.Root(t)
	from, to, layer := t.TempDir(), t.TempDir(), t.TempDir()
	l, n := newKnown(), 0
	for _, text := range []string{"one", "two, longer"} {
		if err := os.WriteFile(from+"/f", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := transfer(t, from, receiverInto(to, l, &n)); err != nil {
			t.Fatal(err)
		}
		os.Link(to+"/f", layer+"/f") // the second time it is there
	}
	if b, err := os.ReadFile(layer + "/f"); string(b) != "one" {
		t.Errorf("the layer has %q, %v", b, err)
	}
}

// TestHostile sends what no honest client does.
func TestHostile(t *testing.T) {
	promise.Root(t)
	file := func(path string) *types.Packet {
		return &types.Packet{Type: types.PACKET_STAT, Stat: &types.Stat{Path: path, Mode: 0o644, Size: 1}}
	}
	link := func(path, to string) *types.Packet {
		return &types.Packet{Type: types.PACKET_STAT, Stat: &types.Stat{Path: path, Mode: uint32(os.ModeSymlink | 0o777), Linkname: to}}
	}
	for _, c := range []struct {
		name    string
		packets []*types.Packet
	}{
		{"upwards", []*types.Packet{file("../x")}},
		{"absolute", []*types.Packet{file("/x")}},
		{"through a link", []*types.Packet{link("a", ".."), file("a/x")}},
		{"in no directory", []*types.Packet{file("a/x")}},
		{"in a file", []*types.Packet{file("a"), file("a/x")}},
		{"out of order", []*types.Packet{file("b"), file("a")}},
		{"twice", []*types.Packet{file("a"), file("a")}},
		{"a link to what is not there", []*types.Packet{{Type: types.PACKET_STAT, Stat: &types.Stat{Path: "a", Mode: 0o644, Linkname: "b"}}}},
		{"data that nobody asked for", []*types.Packet{{Type: types.PACKET_DATA, ID: 7, Data: []byte("x")}}},
		{"an error", []*types.Packet{{Type: types.PACKET_ERR, Data: []byte("no")}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			a, b := pair(ctx)
			above := t.TempDir()
			to := above + "/to"
			if err := os.Mkdir(to, 0o755); err != nil {
				t.Fatal(err)
			}
			go func() {
				for _, p := range c.packets {
					a.SendMsg(p)
				}
				for {
					var p types.Packet
					if a.RecvMsg(&p) != nil || p.Type == types.PACKET_ERR {
						close(a.out) // an honest one's answer to a failure
						return
					}
				}
			}()
			n := 0
			if err := receiverInto(to, newKnown(), &n)(ctx, b); err == nil || ctx.Err() != nil {
				t.Errorf("it was taken: %v", err)
			}
			if _, err := os.Lstat(above + "/x"); err == nil {
				t.Error("it got out")
			}
		})
	}
}

// counted counts what a sender sends of files.
type counted struct {
	*end
	bytes map[uint32]int
}

func (c *counted) SendMsg(m any) error {
	if p, ok := m.(*types.Packet); ok && p.Type == types.PACKET_DATA {
		c.bytes[p.ID] += len(p.Data)
	}
	return c.end.SendMsg(m)
}

// TestOnlyChangedTravel counts the bytes of files, first and with one changed.
func TestOnlyChangedTravel(t *testing.T) {
	promise.Root(t)
	const files, size = 500, 1000
	from, to, l, n := t.TempDir(), t.TempDir(), newKnown(), 0
	for i := range files {
		if err := os.WriteFile(fmt.Sprint(from, "/", i), bytes.Repeat([]byte{byte(i)}, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name         string
		do           func() error
		files, bytes int
	}{
		{"first", func() error { return nil }, files, files * size},
		{"unchanged", func() error { return nil }, 0, 0},
		{"one changed", func() error { return os.WriteFile(from+"/7", make([]byte, size+1), 0o644) }, 1, size + 1},
		{"a mode", func() error { return os.Chmod(from+"/8", 0o600) }, 1, size},
		{"one removed", func() error { return os.Remove(from + "/9") }, 0, 0},
	} {
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		sent := &counted{bytes: map[uint32]int{}}
		if err := transferThrough(t, from, sent, receiverInto(to, l, &n)); err != nil {
			t.Fatal(c.name, err)
		}
		sum := 0
		for _, n := range sent.bytes {
			sum += n
		}
		if sum != c.bytes {
			t.Errorf("%s: %d bytes of %d files travelled, not %d of %d", c.name, sum, len(sent.bytes), c.bytes, c.files)
		}
	}
}
