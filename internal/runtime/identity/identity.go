// Package identity owns docker's USER: who a user string means inside of a
// root directory, by that directory's own passwd and group. It reads nothing
// but small regular files there, and links neither os nor fmt.
package identity

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/runtime/initproto"
)

// maxDatabase bounds /etc/passwd and /etc/group. An image chooses their size,
// and they are read into memory.
const maxDatabase = 1 << 20

const maxID = 1<<31 - 1

// Identity is who the user's process is.
type Identity struct {
	UID, GID uint32
	Groups   []uint32
	Home     string
}

// users are the databases of the root that the descriptor is open on.
type users struct{ root int }

// Of looks up p's user and groups in the databases below the directory root.
func Of(root int, p *initproto.Process) (Identity, *initproto.Failure) {
	s := users{root}
	id := Identity{UID: p.UID, GID: p.GID, Groups: p.GIDs, Home: "/"}
	needGroups := len(p.Groups) > 0 || p.Lookup && p.User != ""
	passwd, f := s.database("/etc/passwd")
	if f != nil {
		return id, f
	}
	var group string
	if needGroups {
		if group, f = s.database("/etc/group"); f != nil {
			return id, f
		}
	}
	if !p.Lookup {
		if u, ok := findUser(passwd, strconv.Itoa(int(p.UID))); ok {
			id.Home = u.home
		}
	} else if f = id.lookup(p.User, passwd, group); f != nil {
		return id, f
	}
	for _, name := range p.Groups {
		gid, ok := groupID(group, name)
		if !ok {
			if gid, f = number(name, "unable to find group "+name+": no matching entries in group file"); f != nil {
				return id, f
			}
		}
		id.Groups = append(id.Groups, gid)
	}
	id.Groups = unique(id.Groups)
	if id.Home == "" {
		id.Home = "/"
	}
	return id, nil
}

func text(message string) *initproto.Failure {
	return &initproto.Failure{Step: "user", Message: message, Errno: uint32(unix.EINVAL)}
}

func failed(step string, err error) *initproto.Failure {
	f := &initproto.Failure{Step: step, Message: step + ": " + err.Error()}
	var e unix.Errno
	if errors.As(err, &e) {
		f.Errno = uint32(e)
	}
	return f
}

// lookup reads "user", "user:group", ":group" or numbers as docker does.
func (id *Identity) lookup(spec, passwd, group string) *initproto.Failure {
	name, groupName, _ := strings.Cut(spec, ":")
	wanted := name
	if wanted == "" {
		wanted = "0"
	}
	u, found := findUser(passwd, wanted)
	switch {
	case found:
		id.UID, id.GID, id.Home = u.uid, u.gid, u.home
	case name == "":
		id.UID, id.GID = 0, 0
	default:
		uid, f := number(name, "unable to find user "+name+": no matching entries in passwd file")
		if f != nil {
			return f
		}
		id.UID, id.GID = uid, 0
		u.name = name
	}
	id.Groups = nil
	if groupName != "" {
		gid, ok := groupID(group, groupName)
		if !ok {
			var f *initproto.Failure
			if gid, f = number(groupName, "unable to find group "+groupName+": no matching entries in group file"); f != nil {
				return f
			}
		}
		id.GID = gid
		id.Groups = []uint32{gid}
		return nil
	}
	id.Groups = append([]uint32{id.GID}, memberships(group, u.name)...)
	return nil
}

func number(s, otherwise string) (uint32, *initproto.Failure) {
	n, err := strconv.Atoi(s)
	if err != nil && !allDigits(s) {
		return 0, text(otherwise)
	}
	if err != nil || n < 0 || n > maxID {
		return 0, text("uids and gids must be in range 0-2147483647")
	}
	return uint32(n), nil
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

type user struct {
	name     string
	uid, gid uint32
	home     string
}

// findUser gives the first line whose number or name is want; a number is
// never taken for a name.
func findUser(passwd, want string) (user, bool) {
	id, numeric := parseID(want)
	for line := range strings.SplitSeq(passwd, "\n") {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 || f[0] == "" {
			continue
		}
		uid, okU := parseID(f[2])
		gid, okG := parseID(f[3])
		if !okU || !okG || numeric && uid != id || !numeric && f[0] != want {
			continue
		}
		u := user{name: f[0], uid: uid, gid: gid}
		if len(f) > 5 {
			u.home = f[5]
		}
		return u, true
	}
	return user{}, false
}

// groupID finds a group by name or number; a number needs no entry.
func groupID(group, want string) (uint32, bool) {
	id, numeric := parseID(want)
	if numeric {
		return id, true
	}
	for line := range strings.SplitSeq(group, "\n") {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) >= 3 && f[0] == want {
			if gid, ok := parseID(f[2]); ok {
				return gid, true
			}
		}
	}
	return 0, false
}

func memberships(group, name string) []uint32 {
	if name == "" {
		return nil
	}
	var gids []uint32
	for line := range strings.SplitSeq(group, "\n") {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 {
			continue
		}
		for member := range strings.SplitSeq(f[3], ",") {
			if gid, ok := parseID(f[2]); ok && member == name {
				gids = append(gids, gid)
				break
			}
		}
	}
	return gids
}

func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err == nil
}

func unique(list []uint32) []uint32 {
	out := list[:0:0]
	seen := make(map[uint32]bool, len(list))
	for _, g := range list {
		if !seen[g] {
			seen[g] = true
			out = append(out, g)
		}
	}
	return out
}

// database reads a small regular file of the root; a missing one is empty.
// Nothing else is opened for reading: a FIFO would block and a device could act.
func (s users) database(path string) (string, *initproto.Failure) {
	look, err := mount.OpenIn(s.root, path, unix.O_PATH)
	if err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return "", nil
		}
		return "", failed("user database", err)
	}
	ok := regular(look)
	unix.Close(look)
	if !ok {
		return "", text(path + " is not a regular file")
	}
	fd, err := mount.OpenIn(s.root, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return "", failed("user database", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", failed("user database", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", text(path + " is not a regular file")
	}
	if st.Size > maxDatabase {
		return "", text(path + " is larger than 1 MiB")
	}
	// One byte more than its size shows that it grew.
	buf := make([]byte, st.Size+1)
	n := 0
	for n < len(buf) {
		m, err := unix.Read(fd, buf[n:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return "", failed("read "+path, err)
		}
		if m == 0 {
			break
		}
		n += m
	}
	return string(buf[:n]), nil
}

func regular(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// WithHome adds HOME unless the environment has one.
func WithHome(env []string, home string) []string {
	for i, v := range env {
		if v == "HOME=" {
			env[i] = "HOME=" + home
			return env
		}
		if strings.HasPrefix(v, "HOME=") {
			return env
		}
	}
	return append(env, "HOME="+home)
}
