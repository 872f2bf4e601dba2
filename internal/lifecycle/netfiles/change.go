package netfiles

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/wherry-engine/wherry/internal/container"
)

// maxFile bounds what is read of a file that the container may have filled.
const maxFile = 1 << 20

// Changed brings the files of a running container up to date after its
// networks have changed; before is its record of then. What its programs wrote
// into the files stays.
func (f *Files) Changed(before *container.Record, c *container.Container) error {
	after := c.Snapshot()
	if before.HostConfig.NetworkMode.IsHost() || before.HostConfig.NetworkMode.IsContainer() {
		return nil // not its own
	}
	was, err := f.hosts(before)
	if err != nil {
		return err
	}
	is, err := f.hosts(&after)
	if err != nil {
		return err
	}
	return errors.Join(
		revise(filepath.Join(c.Dir(), "hosts"), func(now []byte) []byte { return amend(now, was, is, nil) }),
		revise(filepath.Join(c.Dir(), "resolv.conf"), func(now []byte) []byte {
			if !bytes.Equal(now, f.resolvConf(before)) {
				return now // somebody's own
			}
			return f.resolvConf(&after)
		}))
}

// revise rewrites a file in place if fn changes it.
func revise(path string, fn func([]byte) []byte) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	now, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	file.Close()
	if err != nil {
		return err
	}
	if len(now) > maxFile {
		return errors.New(path + ": too large to be changed")
	}
	next := fn(now)
	if bytes.Equal(now, next) {
		return nil
	}
	return write(path, next)
}

// amend takes the lines out of now that were made and are not any more, and
// those for the names in stale, and adds what is new.
func amend(now, was, is []byte, stale []string) []byte {
	made, wanted, have := lines(was), lines(is), lines(now)
	var out []string
	for _, l := range have {
		_, names, _ := strings.Cut(l, "\t")
		gone := slices.Contains(made, l) || slices.Contains(stale, names)
		if !gone || slices.Contains(wanted, l) {
			out = append(out, l)
		}
	}
	for _, l := range wanted {
		fresh := !slices.Contains(made, l) || !slices.Contains(have, l) && isStale(l, stale)
		if fresh && !slices.Contains(out, l) {
			out = append(out, l)
		}
	}
	return []byte(strings.Join(out, "\n") + "\n")
}

func isStale(line string, stale []string) bool {
	_, names, _ := strings.Cut(line, "\t")
	return slices.Contains(stale, names)
}

func lines(b []byte) []string {
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}
