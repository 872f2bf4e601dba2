// Package idmap owns the meaning of userns-remap: which ids of the host the
// users of containers are, read from /etc/subuid and /etc/subgid.
package idmap

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// DefaultUser has the ids that the setting "default" stands for, as in dockerd.
const DefaultUser = "dockremap"

// Range is a run of ids.
type Range struct{ Container, Host, Size uint32 }

// Map is a whole mapping. The zero value maps nothing: no user namespace.
type Map struct{ UIDs, GIDs []Range }

// Root gives the host's ids of the containers' root.
func (m Map) Root() (uid, gid uint32) {
	for _, r := range m.UIDs {
		if r.Container == 0 {
			uid = r.Host
		}
	}
	for _, r := range m.GIDs {
		if r.Container == 0 {
			gid = r.Host
		}
	}
	return uid, gid
}

// account is an entry of passwd or group.
type account struct {
	name string
	id   uint32
}

// names under which a file of subordinate ids may list it.
func (a account) names() []string {
	if a.name == "" {
		return []string{strconv.FormatUint(uint64(a.id), 10)}
	}
	return []string{a.name, strconv.FormatUint(uint64(a.id), 10)}
}

// Load reads the setting: "default", user, user:group, uid or uid:gid. etc is
// the directory of passwd, group, subuid and subgid. An empty setting, and
// root, mean that nothing is mapped.
func Load(setting, etc string) (Map, error) {
	if setting == "" {
		return Map{}, nil
	}
	userName, groupName, both := strings.Cut(setting, ":")
	if userName == "" || both && groupName == "" {
		return Map{}, fmt.Errorf("invalid userns-remap %q: want user, user:group, uid, uid:gid or default", setting)
	}
	var user, group account
	var err error
	if setting == "default" {
		// The user need not exist: nobody logs in as it.
		user, group = account{name: DefaultUser}, account{name: DefaultUser}
		if u, err := find(filepath.Join(etc, "passwd"), "user", DefaultUser); err == nil {
			user = u
		}
	} else {
		if user, err = find(filepath.Join(etc, "passwd"), "user", userName); err != nil {
			return Map{}, err
		}
		if group = user; both {
			if group, err = find(filepath.Join(etc, "group"), "group", groupName); err != nil {
				return Map{}, err
			}
		}
	}
	if user.id == 0 && user.name == "root" {
		return Map{}, nil
	}
	var m Map
	if m.UIDs, err = subordinate(filepath.Join(etc, "subuid"), user); err != nil {
		return Map{}, err
	}
	if m.GIDs, err = subordinate(filepath.Join(etc, "subgid"), group); err != nil {
		return Map{}, err
	}
	return m, nil
}

// find looks for a name or number in passwd or group. A number needs no entry.
func find(file, kind, ref string) (account, error) {
	var found *account
	err := lines(file, func(f []string) error {
		if len(f) < 3 || f[0] != ref && f[2] != ref || found != nil {
			return nil
		}
		n, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			return nil // a damaged line is nobody's
		}
		found = &account{f[0], uint32(n)}
		return nil
	})
	if err != nil {
		return account{}, err
	}
	if found != nil {
		return *found, nil
	}
	if n, err := strconv.ParseUint(ref, 10, 32); err == nil {
		return account{id: uint32(n)}, nil
	}
	return account{}, fmt.Errorf("userns-remap: there is no %s %q in %s", kind, ref, file)
}

// subordinate reads the ranges of an account and lays them end to end.
func subordinate(file string, a account) ([]Range, error) {
	var out []Range
	next := uint64(0)
	highest := uint64(100000 - 65536)
	err := lines(file, func(f []string) error {
		if len(f) != 3 {
			return fmt.Errorf("%s: %q is not name:first:count", file, strings.Join(f, ":"))
		}
		first, err := strconv.ParseUint(f[1], 10, 32)
		count, cerr := strconv.ParseUint(f[2], 10, 32)
		if err != nil || cerr != nil || first+count > 1<<32-1 {
			return fmt.Errorf("%s: %q is not name:first:count", file, strings.Join(f, ":"))
		}
		highest = max(highest, first+count)
		if !slices.Contains(a.names(), f[0]) || count == 0 || next+count > 1<<32-1 {
			return nil
		}
		out = append(out, Range{uint32(next), uint32(first), uint32(count)})
		next += count
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(out) == 0 {
		highest = (highest + 65535) / 65536 * 65536
		return nil, fmt.Errorf("userns-remap: no range of ids for %s in %s; add a line such as %s:%d:65536", a.names()[0], file, a.names()[0], max(highest, 100000))
	}
	return out, nil
}

// lines calls fn with the fields of each line. A file that does not exist is empty.
func lines(file string, fn func([]string) error) error {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		text := strings.TrimSpace(s.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		if err := fn(strings.Split(text, ":")); err != nil {
			return err
		}
	}
	return s.Err()
}
