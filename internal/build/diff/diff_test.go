package diff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/util/overlay"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	enginecontent "github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/content/thin"
)

// write writes a file; a fifo has nobody to read it.
func write(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// changes does what programs do to a tree.
func changes(t *testing.T, r *rand.Rand, root string, count int) {
	t.Helper()
	var dirs, files []string
	list := func() {
		dirs, files = []string{root}, nil
		err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
			switch {
			case err != nil || p == root:
			case d.IsDir():
				dirs = append(dirs, p)
			default:
				files = append(files, p)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	list()
	for n := range count {
		name := filepath.Join(dirs[r.IntN(len(dirs))], fmt.Sprintf("n%d", r.IntN(40)))
		old := name
		if len(files) > 0 {
			old = files[r.IntN(len(files))]
		}
		var err error
		switch r.IntN(20) {
		case 0, 1, 2:
			err = write(name, bytes.Repeat([]byte{byte(n)}, r.IntN(3*small)))
		case 3, 4:
			err = os.Mkdir(name, 0o755)
		case 5:
			err = os.RemoveAll(old)
		case 6:
			if d := dirs[r.IntN(len(dirs))]; d != root {
				if err = os.RemoveAll(d); err == nil && r.IntN(2) == 0 {
					err = os.WriteFile(d, nil, 0o600)
				}
			}
		case 7:
			err = os.Symlink("somewhere", name)
		case 8:
			err = os.Link(old, name)
		case 9:
			err = os.Lchown(old, r.IntN(3), r.IntN(3))
		case 10:
			err = os.Chtimes(old, time.Time{}, time.Unix(int64(r.IntN(1000)), 0))
		case 11:
			err = unix.Mkfifo(name, 0o644)
		case 12:
			// Of a driver that there is not: files are written to here.
			err = unix.Mknod(name, unix.S_IFCHR|0o600, int(unix.Mkdev(4000, uint32(r.IntN(9)))))
		case 13:
			b := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
			err = unix.Lsetxattr(old, capability, b, 0)
		case 14:
			err = os.Rename(old, name)
		case 15:
			err = os.Chmod(dirs[r.IntN(len(dirs))], os.FileMode(0o700+r.IntN(64))|os.ModeSticky)
		case 16:
			if err = os.Rename(old, old+".tmp"); err == nil { // copied up and as it was
				err = os.Rename(old+".tmp", old)
			}
		case 17:
			err = unix.Mknod(name, unix.S_IFSOCK|0o600, 0)
		case 18, 19: // made anew, much of it as it was
			if d := dirs[r.IntN(len(dirs))]; d != root {
				err = exec.Command("sh", "-c", `cp -a "$1" "$1.tmp" && rm -r "$1" && mv "$1.tmp" "$1"`, "sh", d).Run()
			}
		}
		// Names meet what does not go with them; a failure is a change, too.
		if errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		list()
	}
}

// bed is a content store on a data root with layers.
func bed(t *testing.T) (root string, store *enginecontent.Store) {
	t.Helper()
	root = t.TempDir()
	store, err := enginecontent.Open(t.Context(), root, map[string]snapshots.Snapshotter{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return root, store
}

// held adds a blob, which stays until the test ends.
func held(t *testing.T, store *enginecontent.Store, b *thin.Blob) context.Context {
	t.Helper()
	ctx, done, err := store.Lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	if _, err := store.AddArchive(ctx, b, "overlay2", "some"); err != nil {
		t.Fatal(err)
	}
	return ctx
}

// overlaid makes a base and a layer above it.
func overlaid(t *testing.T, root string, first, second func(dir string)) (upper, lower string) {
	t.Helper()
	lower, upper = filepath.Join(root, "lower"), filepath.Join(root, "upper")
	work, merged := filepath.Join(root, "work"), filepath.Join(root, "merged")
	for _, d := range []string{lower, upper, work, merged} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	first(lower)
	if err := unix.Mount("overlay", merged, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(merged, unix.MNT_DETACH) }) //nolint:errcheck // it is gone, unless the test failed
	second(merged)
	if err := unix.Unmount(merged, 0); err != nil {
		t.Fatal(err)
	}
	return upper, lower
}

// opaque tells whether a layer has a directory that stands for one below it.
func opaque(t *testing.T, upper, lower string) (yes bool) {
	t.Helper()
	err := filepath.WalkDir(upper, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		mark := make([]byte, 8)
		n, xerr := unix.Lgetxattr(p, "trusted.overlay.opaque", mark)
		below, serr := os.Lstat(filepath.Join(lower, p[len(upper):]))
		yes = yes || xerr == nil && string(mark[:n]) == "y" && serr == nil && below.IsDir()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return yes
}

// sum adds up the sizes of files, each inode once.
func sum(t *testing.T, dir string) (n int64) {
	t.Helper()
	seen := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(p, &st)
		}
		if !d.IsDir() && !seen[st.Ino] {
			seen[st.Ino] = true
			n += st.Size
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestBytes: the archive is byte for byte the one of BuildKit's differ, and what
// is put together of the thin blob is the archive.
func TestBytes(t *testing.T) {
	replaced := 0
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			root, store := bed(t)
			upper, lower := overlaid(t, root, func(dir string) { changes(t, r, dir, 60) }, func(dir string) { changes(t, r, dir, 40) })
			if opaque(t, upper, lower) {
				replaced++
			}
			same(t, r, store, upper, lower)
			same(t, r, store, lower, "")
		})
	}
	if replaced < 20 {
		t.Errorf("only %d of 40 layers have a directory that was made anew", replaced)
	}
}

// same compares a layer above a base, or none, with BuildKit's.
func same(t *testing.T, r *rand.Rand, store *enginecontent.Store, dir, base string) {
	t.Helper()
	var below []mount.Mount
	if base != "" {
		below = []mount.Mount{{Type: "bind", Source: base, Options: []string{"rbind", "ro"}}}
	}
	var want bytes.Buffer
	if err := overlay.WriteUpperdir(t.Context(), &want, dir, below); err != nil {
		t.Fatal(err)
	}
	w, err := store.Archive(dir)
	if err != nil {
		t.Fatal(err)
	}
	size, err := Write(t.Context(), w, dir, base)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sum(t, dir); size != sum {
		t.Errorf("files of %d bytes, want %d", size, sum)
	}
	b, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if d := digest.FromBytes(want.Bytes()); b.Digest != d || b.Size != int64(want.Len()) {
		t.Fatalf("%s of %d bytes, want %s of %d", b.Digest, b.Size, d, want.Len())
	}
	ctx := held(t, store, b)
	ra, err := store.Open(ctx, b.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer ra.Close()
	got, err := io.ReadAll(content.NewReader(ra))
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Fatalf("read %d bytes of %d (%v)", len(got), want.Len(), err)
	}
	for range 50 {
		off := r.Int64N(ra.Size() + 10)
		p := make([]byte, r.IntN(5000))
		n, err := ra.ReadAt(p, off)
		w := want.Bytes()[min(off, ra.Size()):]
		if n != min(len(w), len(p)) || !bytes.Equal(p[:n], w[:n]) || (n < len(p)) != (err == io.EOF) {
			t.Fatalf("%d bytes at %d of %d: %d, %v", len(p), off, ra.Size(), n, err)
		}
	}
}

// TestReplaced: a directory that was removed and made anew, with some of what was
// in it, and names of files that are links to others, inside and outside of it.
func TestReplaced(t *testing.T) {
	const before = `mkdir -p d/sub/deep e other; echo a >d/a; echo b >d/b; echo x >d/sub/x; echo y >d/sub/deep/y; echo e >e/e
		ln d/b other/b; ln -s a d/link; mkdir d/dir d/gone; echo 1 >d/gone/1; touch d/dir/file d/file`
	const anew = `cp -a d d.tmp; rm -r d; mv d.tmp d; `
	for name, change := range map[string]string{
		"as it was":               anew,
		"another name behind":     anew + `ln d/a d/z`,
		"another name before":     anew + `ln d/a d/0`,
		"names in other dirs":     anew + `ln d/sub/deep/y d/0; ln d/sub/x d/zz; ln d/sub/x a; ln d/a zzz; ln d/sub/deep/y z`,
		"names and content":       anew + `ln d/a d/z; echo more >>d/a; touch d/sub`,
		"all names":               anew + `rm d/b; ln other/b d/b; ln other/b d/c`,
		"less":                    anew + `rm -r d/sub/deep d/gone d/b`,
		"nothing":                 `rm -r d; mkdir d`,
		"a file for a directory":  anew + `rm -r d/dir; touch d/dir`,
		"a directory for a file":  anew + `rm d/file; mkdir d/file; touch d/file/in`,
		"a link for a directory":  `rm -r d; ln -s e d`,
		"for a file":              `rm d/file; mkdir -p d/file/d; mv d/file d/file2; mv d/file2 d/file`,
		"directory in a removed":  anew + `rm -r d/sub; mkdir -p d/sub/deep; ln d/a d/sub/a`,
		"replaced in a replaced":  anew + `cd d; cp -a sub sub.tmp; rm -r sub; mv sub.tmp sub; rm sub/x; ln sub/deep/y y`,
		"other owner and mode":    anew + `chown 1:2 d/a; chmod 700 d/sub; chown -h 3 d/link`,
		"link that was both ways": anew + `ln -P d/link d/other; ln -P d/link d/0`,
		"moved to another place":  `cp -a d e/d; rm -r d e/e; mv e/d d`,
		"moved onto another":      `mkdir n; cp -a d/. n; rm -r e; mv n e; rm -r d; mkdir d`,
	} {
		t.Run(name, func(t *testing.T) {
			root, store := bed(t)
			upper, lower := overlaid(t, root, func(dir string) { shell(t, dir, before) }, func(dir string) { shell(t, dir, change) })
			same(t, rand.New(rand.NewPCG(1, 1)), store, upper, lower)
		})
	}
}

func shell(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestChanged: a layer's file that is not what it was is noticed.
func TestChanged(t *testing.T) {
	root, store := bed(t)
	dir := filepath.Join(root, "layer")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "file")
	if err := os.WriteFile(name, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	w, err := store.Archive(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Write(t.Context(), w, dir, ""); err != nil {
		t.Fatal(err)
	}
	b, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	ctx := held(t, store, b)
	if got, err := store.Read(ctx, b.Digest, 1<<20); err != nil || !bytes.Contains(got, []byte("content")) {
		t.Fatalf("read %q (%v)", got, err)
	}
	if err := store.Check(ctx, b.Digest); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func() error{
		"other size": func() error { return os.WriteFile(name, []byte("more content"), 0o644) },
		"a link": func() error {
			return errors.Join(os.RemoveAll(name), os.Symlink("/etc/hostname", name))
		},
		"gone": func() error { return os.RemoveAll(name) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if got, err := store.Read(ctx, b.Digest, 1<<20); err == nil {
			t.Errorf("%s: read %d bytes", what, len(got))
		}
		if err := store.Check(ctx, b.Digest); err == nil {
			t.Errorf("%s: nothing is found", what)
		}
		os.Remove(name)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := store.Check(ctx, b.Digest); err == nil || errdefs.IsNotFound(err) {
		t.Errorf("without its layer: %v", err)
	}
}

// TestOwnChanged: the same goes for each byte that the blob has itself.
func TestOwnChanged(t *testing.T) {
	root, store := bed(t)
	dir := filepath.Join(root, "layer")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w, err := store.Archive(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Write(t.Context(), w, dir, ""); err != nil {
		t.Fatal(err)
	}
	b, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	ctx := held(t, store, b)
	file := filepath.Join(root, "content", "thin", b.Digest.Encoded())
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	try := func(what string, own []byte) {
		if err := os.WriteFile(file, own, 0o600); err != nil {
			t.Fatal(err)
		}
		got, rerr := store.Read(ctx, b.Digest, 1<<20)
		if err := store.Check(ctx, b.Digest); (err == nil) != (rerr == nil) {
			t.Errorf("%s: the check says %v, a read %v", what, err, rerr)
		}
		// What of zstd's own header is changed need not change what comes out.
		if rerr == nil && digest.FromBytes(got) != b.Digest {
			t.Errorf("%s: other bytes are read", what)
		}
	}
	for i := range good {
		for _, bit := range []byte{1, 0x10, 0x80} {
			bad := bytes.Clone(good)
			bad[i] ^= bit
			try(fmt.Sprintf("byte %d of %d", i, len(good)), bad)
		}
		try(fmt.Sprintf("cut at %d of %d", i, len(good)), good[:i])
	}
	try("more", append(bytes.Clone(good), good...))
	try("good", good)
}

// TestCancelled: who stops in the middle leaves nothing open.
func TestCancelled(t *testing.T) {
	root, store := bed(t)
	for n := range 600 {
		if err := os.MkdirAll(filepath.Join(root, "layer", fmt.Sprint(n%50)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "layer", fmt.Sprint(n%50), fmt.Sprint(n)), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before := open(t)
	for _, after := range []int{0, 1, 100, 400} {
		ctx, cancel := context.WithCancel(t.Context())
		w, err := store.Archive(filepath.Join(root, "layer"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = Write(ctx, &stopping{Archive: w, left: after, stop: cancel}, filepath.Join(root, "layer"), "")
		if !errors.Is(err, context.Canceled) {
			t.Errorf("after %d files: %v", after, err)
		}
		w.Abort()
		cancel()
	}
	if after := open(t); after > before { // the test before may have had some
		t.Errorf("%d descriptors are open, there were %d", after, before)
	}
}

type stopping struct {
	Archive
	left int
	stop func()
}

func (s *stopping) File(name string, size int64) error {
	if s.left--; s.left < 0 {
		s.stop()
	}
	return s.Archive.File(name, size)
}

func open(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
