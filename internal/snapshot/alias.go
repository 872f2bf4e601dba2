package snapshot

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/wherry-engine/wherry/internal/id"
)

// labelAlias on a layer names the snapshot that its files are in: one that a
// build has made. A second label keeps that one alive.
const labelAlias = "wherry.alias"

// Stands names the snapshot that has the files of a layer.
func Stands(info snapshots.Info) string {
	if target := info.Labels[labelAlias]; target != "" {
		return target
	}
	return info.Name
}

// Describe gives the labels of a snapshot with these mounts: where its files
// are and, unless it is to be found out later, how large they are.
func (s *Store) Describe(mounts []mount.Mount, size bool) (map[string]string, error) {
	dir, _, _, err := directories(mounts)
	if err != nil {
		return nil, err
	}
	rel, err := filepath.Rel(s.base, dir)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{labelDir: rel}
	if size {
		n, err := treeSize(dir, "")
		if err != nil {
			return nil, err
		}
		labels[labelSize] = strconv.FormatInt(n, 10)
	}
	return labels, nil
}

// Files is the directory of a snapshot's own files; still says that they do not
// change any more.
func Files(ctx context.Context, s *Store, name string) (dir string, still bool, err error) {
	info, err := s.sn.Stat(ctx, name)
	if err != nil {
		return "", false, err
	}
	if info.Kind == snapshots.KindCommitted {
		if dir = info.Labels[labelDir]; dir == "" || !filepath.IsLocal(dir) {
			return "", true, fmt.Errorf("layer %s: its directory is not recorded", name)
		}
		return filepath.Join(s.base, dir), true, nil
	}
	mounts, err := s.sn.Mounts(ctx, name)
	if err != nil {
		return "", false, err
	}
	dir, _, _, err = directories(mounts)
	return dir, false, err
}

// Sizes gives the bytes of the files of all layers, by the snapshots that have them.
func Sizes(ctx context.Context, s *Store) (map[string]int64, error) {
	out := map[string]int64{}
	err := s.sn.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if n, err := strconv.ParseInt(info.Labels[labelSize], 10, 64); err == nil {
			out[Stands(info)] = n
		}
		return nil
	})
	return out, err
}

// Gone tells which of some snapshots are not there any more.
func Gone(ctx context.Context, s *Store, sizes map[string]int64) (gone map[string]bool, bytes int64, err error) {
	gone = map[string]bool{}
	for name, n := range sizes {
		if _, err := s.sn.Stat(ctx, name); errdefs.IsNotFound(err) {
			gone[name], bytes = true, bytes+n
		} else if err != nil {
			return nil, 0, err
		}
	}
	return gone, bytes, nil
}

// Usage is what a snapshot takes. A step can leave one that is being written with
// files deeper than a path can tell, which sn, the snapshotter, cannot count.
func Usage(ctx context.Context, s *Store, sn snapshots.Snapshotter, name string) (snapshots.Usage, error) {
	u, err := sn.Usage(ctx, name)
	if !errors.Is(err, syscall.ENAMETOOLONG) {
		return u, err
	}
	dir, _, err := Files(ctx, s, name)
	if err != nil {
		return snapshots.Usage{}, err
	}
	n, err := treeSize(dir, "")
	return snapshots.Usage{Size: n}, err
}

// Placed notes that files of a layer are about to be needed by what will be
// durable: the next Sync does not pass them over.
func Placed(s *Store) { s.placed.Add(1) }

// Alias gives the files of a committed snapshot the further name of a layer on
// top of the chain parent ("" for none). The lease in ctx keeps it. Size may know
// how many bytes the files in a directory have; if not, they are summed.
func (s *Store) Alias(ctx context.Context, chain, parent string, target snapshots.Info, size func(dir string) (bytes int64, ok bool)) error {
	dir := target.Labels[labelDir]
	if dir == "" || !filepath.IsLocal(dir) {
		return fmt.Errorf("layer %s: the directory of %s is not recorded", chain, target.Name)
	}
	n, ok := size(filepath.Join(s.base, dir))
	if !ok {
		var err error
		if n, err = treeSize(filepath.Join(s.base, dir), ""); err != nil {
			return err
		}
	}
	key := "alias-" + id.New()
	if _, err := s.sn.Prepare(ctx, key, parent); err != nil {
		return fmt.Errorf("layer %s: %w", chain, err)
	}
	s.placed.Add(1)
	err := s.sn.Commit(ctx, chain, key, snapshots.WithLabels(map[string]string{
		labelDir: dir, labelSize: strconv.FormatInt(n, 10), labelAlias: target.Name,
		"containerd.io/gc.ref.snapshot." + s.driver: target.Name,
	}))
	if err == nil {
		return nil
	}
	rerr := s.sn.Remove(context.WithoutCancel(ctx), key)
	if errdefs.IsAlreadyExists(err) {
		return rerr // another build was faster
	}
	return fmt.Errorf("layer %s: %w", chain, err)
}
