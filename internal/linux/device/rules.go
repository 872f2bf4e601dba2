// Package device owns rules about which devices a group of processes may use:
// it reduces an OCI list to its shortest form and gives that to the kernel, as
// lines for cgroup v1's devices controller or as a BPF program on a cgroup v2
// directory.
package device

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Access bits, as the kernel numbers them for BPF programs.
const (
	accMknod = 1 << iota
	accRead
	accWrite
	accAll = accMknod | accRead | accWrite
)

// Any stands for all major or minor numbers.
const Any = -1

// Rules is a list of rules in its shortest form, with the meaning that the
// same writes to devices.allow and devices.deny have on v1: a rule for all
// devices forgets what came before; a rule that repeats the default takes back
// exceptions with exactly its numbers.
type Rules struct {
	Allow      bool // what is not excepted
	Exceptions []Exception
}

// Exception is a device or many to which the default does not apply. Major and
// Minor may be Any.
type Exception struct {
	Block        bool
	Major, Minor int64
	Access       int // bits
}

// Parse reads an OCI list; rules apply in order.
func Parse(list []specs.LinuxDeviceCgroup) (*Rules, error) {
	d := &Rules{Allow: true}
	for _, l := range list {
		acc, err := parseAccess(l.Access)
		if err != nil {
			return nil, err
		}
		major, minor := int64(Any), int64(Any)
		if l.Major != nil {
			major = *l.Major
		}
		if l.Minor != nil {
			minor = *l.Minor
		}
		if major < Any || minor < Any {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid device number %d:%d", major, minor))
		}
		switch l.Type {
		case "", "a":
			// Whatever numbers and access it has, the kernel reads it as all.
			*d = Rules{Allow: l.Allow}
		case "b", "c", "u", "p":
			if l.Type == "p" {
				continue // FIFOs are no devices
			}
			d.except(Exception{Block: l.Type == "b", Major: major, Minor: minor, Access: acc}, l.Allow)
		default:
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid device type %q", l.Type))
		}
	}
	slices.SortFunc(d.Exceptions, func(a, b Exception) int { return strings.Compare(a.String(), b.String()) })
	return d, nil
}

func parseAccess(s string) (int, error) {
	acc := 0
	for _, c := range s {
		switch c {
		case 'r':
			acc |= accRead
		case 'w':
			acc |= accWrite
		case 'm':
			acc |= accMknod
		default:
			return 0, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid device access %q", s))
		}
	}
	return acc, nil
}

func (d *Rules) except(e Exception, allow bool) {
	i := slices.IndexFunc(d.Exceptions, func(o Exception) bool {
		return o.Block == e.Block && o.Major == e.Major && o.Minor == e.Minor
	})
	switch {
	case allow != d.Allow && i >= 0:
		d.Exceptions[i].Access |= e.Access
	case allow != d.Allow && e.Access != 0:
		d.Exceptions = append(d.Exceptions, e)
	case allow == d.Allow && i >= 0:
		if d.Exceptions[i].Access &^= e.Access; d.Exceptions[i].Access == 0 {
			d.Exceptions = slices.Delete(d.Exceptions, i, i+1)
		}
	}
}

// Unrestricted reports whether all is allowed.
func (d *Rules) Unrestricted() bool { return d.Allow && len(d.Exceptions) == 0 }

// String is the form in which v1 takes a rule.
func (e Exception) String() string {
	kind, acc := "c", ""
	if e.Block {
		kind = "b"
	}
	for i, c := range "mrw" {
		if e.Access&(1<<i) != 0 {
			acc += string(c)
		}
	}
	return fmt.Sprintf("%s %s:%s %s", kind, number(e.Major), number(e.Minor), acc)
}

func number(n int64) string {
	if n == Any {
		return "*"
	}
	return strconv.FormatInt(n, 10)
}

// Hash names the rules: equal meaning, equal hash.
func (d *Rules) Hash() string {
	h := sha256.New()
	fmt.Fprintln(h, d.Allow)
	for _, e := range d.Exceptions {
		fmt.Fprintln(h, e)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// WriteV1 gives the rules to an empty directory.
func (d *Rules) WriteV1(dir string) error {
	normal, other := "devices.deny", "devices.allow"
	if d.Allow {
		normal, other = other, normal
	}
	if err := write(filepath.Join(dir, normal), "a"); err != nil {
		return err
	}
	for _, e := range d.Exceptions {
		if err := write(filepath.Join(dir, other), e.String()); err != nil {
			return err
		}
	}
	return nil
}

func write(file, value string) error {
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return fmt.Errorf("write %q to %s: %w", value, file, err)
	}
	return nil
}
