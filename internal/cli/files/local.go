package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// place is one end of a copy: what the path names and what it is.
type place struct {
	path   string
	exists bool
	dir    bool
	// rename is the name that a link had which was followed, if another.
	rename string
}

func endsWithSlash(p string) bool { return strings.HasSuffix(p, "/") }
func endsWithDot(p string) bool   { return filepath.Base(p) == "." }
func meansDir(p string) bool      { return endsWithSlash(p) || endsWithDot(p) }

// keepEnd gives clean the "/" or "/." that original ends with: they say that
// what is in a directory is meant.
func keepEnd(clean, original string) string {
	if !endsWithDot(clean) && endsWithDot(original) {
		if !endsWithSlash(clean) {
			clean += "/"
		}
		clean += "."
	}
	if !endsWithSlash(clean) && endsWithSlash(original) {
		clean += "/"
	}
	return clean
}

// split cuts a path in directory and entry; the entry of "x/." is ".".
func split(p string) (dir, base string) {
	clean := filepath.Clean(p)
	if endsWithDot(p) {
		clean += "/."
	}
	return filepath.Dir(clean), filepath.Base(clean)
}

func localPath(p string) (string, error) {
	abs, err := filepath.Abs(p)
	return keepEnd(abs, p), err
}

// rebased is a followed link's target with the end and the name of the link.
func rebased(link, target string) (path, rename string) {
	target = keepEnd(target, link)
	if filepath.Base(link) != filepath.Base(target) {
		rename = filepath.Base(link)
	}
	return target, rename
}

// localSource describes what is to be copied.
func localSource(p string, follow bool) (place, error) {
	var s place
	if follow {
		target, err := filepath.EvalSymlinks(p)
		if err != nil {
			return s, err
		}
		s.path, s.rename = rebased(p, target)
	} else {
		dir, base := filepath.Split(p)
		target, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return s, err
		}
		s.path = strings.TrimSuffix(target, "/") + "/" + base
		if endsWithSlash(p) && filepath.Base(p) != filepath.Base(s.path) {
			s.rename = filepath.Base(p)
		}
	}
	st, err := os.Lstat(s.path)
	if err != nil {
		return s, err
	}
	s.exists, s.dir = true, st.IsDir()
	return s, nil
}

// maxLinks is how many links in a row a destination may be.
const maxLinks = 10

// localDestination describes where to copy to, links at its end followed, also
// to what does not exist yet.
func localDestination(p string) (place, error) {
	original := p
	for n := 0; ; n++ {
		st, err := os.Lstat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			dir, _ := split(p)
			parent, err := os.Stat(dir)
			if err != nil {
				return place{}, err
			}
			if !parent.IsDir() {
				return place{}, fmt.Errorf("%w: %s", syscall.ENOTDIR, dir)
			}
			return place{path: p}, nil
		case err != nil:
			return place{}, err
		case st.Mode()&os.ModeSymlink == 0:
			return place{path: p, exists: true, dir: st.IsDir()}, nil
		case n == maxLinks:
			return place{}, fmt.Errorf("too many symlinks in %q", original)
		}
		to, err := os.Readlink(p)
		if err != nil {
			return place{}, err
		}
		if !filepath.IsAbs(to) {
			dir, _ := split(p)
			to = filepath.Join(dir, to)
		}
		p = to
	}
}

// checkOutput refuses a local destination that cannot be one.
func checkOutput(p string) error {
	if dir := filepath.Dir(filepath.Clean(p)); dir != "." {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("invalid output path: directory %q does not exist", dir)
		}
	}
	st, err := os.Stat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := checkMode(st.Mode()); err != nil {
		return fmt.Errorf("invalid output path: %q must be a directory or a regular file: %w", p, err)
	}
	return nil
}

func checkMode(m os.FileMode) error {
	switch {
	case m&os.ModeDevice != 0:
		return errors.New("got a device")
	case m&os.ModeIrregular != 0:
		return errors.New("got an irregular file")
	}
	return nil
}

// plan says which directory to unpack into, and how the entries' first
// component changes on the way; from is "" for entries that stay as they are.
type plan struct{ dir, from, to string }

// arrange compares both ends by docker's rules.
func arrange(src, dst place) (plan, error) {
	dir, base := split(dst.path)
	_, from := split(src.path)
	if src.rename != "" {
		from = src.rename
	}
	switch {
	case dst.exists && dst.dir:
		return plan{dir: dst.path}, nil
	case dst.exists && src.dir:
		return plan{}, errors.New("cannot copy directory")
	case !dst.exists && !src.dir && meansDir(dst.path):
		return plan{}, errors.New("no such directory")
	}
	return plan{dir, from, base}, nil
}

// name is what an entry is called after the plan.
func (p plan) name(entry string) string {
	if p.from == "" {
		return entry
	}
	from := p.from
	if from == "/" {
		from = ""
	}
	if entry == "." || entry == "/" {
		return p.to
	}
	return strings.Replace(entry, from, p.to, 1)
}
