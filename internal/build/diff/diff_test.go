package diff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
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
		switch r.IntN(18) {
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

// layered makes a base and a layer above it.
func layered(t *testing.T, r *rand.Rand, root string) (upper, lower string) {
	t.Helper()
	lower, upper = filepath.Join(root, "lower"), filepath.Join(root, "upper")
	work, merged := filepath.Join(root, "work"), filepath.Join(root, "merged")
	for _, d := range []string{lower, upper, work, merged} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	changes(t, r, lower, 60)
	if err := unix.Mount("overlay", merged, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(merged, unix.MNT_DETACH) }) //nolint:errcheck // it is gone, unless the test failed
	changes(t, r, merged, 40)
	if err := unix.Unmount(merged, 0); err != nil {
		t.Fatal(err)
	}
	return upper, lower
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
	compared := 0
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			root, store := bed(t)
			upper, lower := layered(t, r, root)
			for _, base := range []string{lower, ""} {
				dir, below := upper, []mount.Mount{{Type: "bind", Source: base, Options: []string{"rbind", "ro"}}}
				if base == "" {
					dir, below = lower, nil
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
				if errors.Is(err, errReplaced) && base != "" {
					w.Abort()
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if sum := sum(t, dir); size != sum {
					t.Errorf("files of %d bytes, want %d", size, sum)
				}
				compared++
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
		})
	}
	if compared < 60 {
		t.Errorf("only %d of 80 layers were written", compared)
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
		os.Remove(name)
	}
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
