package cp

import (
	"io"
	"os"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// maxAccounts bounds how much of /etc/passwd and /etc/group is read.
const maxAccounts = 1 << 20

// owner is whom unpacked files belong to.
type owner struct{ uid, gid int }

// lookup resolves user[:group], names or numbers, by the container's accounts.
func (v *view) lookup(spec string) (*owner, error) {
	u, err := user.GetExecUser(spec, &user.ExecUser{}, v.accounts("/etc/passwd"), v.accounts("/etc/group"))
	if err != nil {
		return nil, invalid("%v", err)
	}
	return &owner{u.Uid, u.Gid}, nil
}

// accounts reads a file of accounts, if it is a regular one.
func (v *view) accounts(path string) io.Reader {
	none := strings.NewReader("")
	fd, err := v.follow(path)
	if err != nil {
		return none
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return none
	}
	f, err := os.Open(byFD(fd))
	if err != nil {
		return none
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxAccounts))
	if err != nil {
		return none
	}
	return strings.NewReader(string(data))
}
