package cgroup

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
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

const anyNumber = -1

// devices is a list of rules in its shortest form, with the meaning that the
// same writes to devices.allow and devices.deny have on v1: a rule for all
// devices forgets what came before; a rule that repeats the default takes back
// exceptions with exactly its numbers.
type devices struct {
	allow      bool // what is not excepted
	exceptions []device
}

// device is an exception. Major and minor may be anyNumber.
type device struct {
	block        bool
	major, minor int64
	access       int
}

func parseDevices(list []specs.LinuxDeviceCgroup) (*devices, error) {
	d := &devices{allow: true}
	for _, l := range list {
		acc, err := parseAccess(l.Access)
		if err != nil {
			return nil, err
		}
		major, minor := int64(anyNumber), int64(anyNumber)
		if l.Major != nil {
			major = *l.Major
		}
		if l.Minor != nil {
			minor = *l.Minor
		}
		if major < anyNumber || minor < anyNumber {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid device number %d:%d", major, minor))
		}
		switch l.Type {
		case "", "a":
			// Whatever numbers and access it has, the kernel reads it as all.
			*d = devices{allow: l.Allow}
		case "b", "c", "u", "p":
			if l.Type == "p" {
				continue // FIFOs are no devices
			}
			d.except(device{block: l.Type == "b", major: major, minor: minor, access: acc}, l.Allow)
		default:
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid device type %q", l.Type))
		}
	}
	slices.SortFunc(d.exceptions, func(a, b device) int { return strings.Compare(a.String(), b.String()) })
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

func (d *devices) except(e device, allow bool) {
	i := slices.IndexFunc(d.exceptions, func(o device) bool {
		return o.block == e.block && o.major == e.major && o.minor == e.minor
	})
	switch {
	case allow != d.allow && i >= 0:
		d.exceptions[i].access |= e.access
	case allow != d.allow && e.access != 0:
		d.exceptions = append(d.exceptions, e)
	case allow == d.allow && i >= 0:
		if d.exceptions[i].access &^= e.access; d.exceptions[i].access == 0 {
			d.exceptions = slices.Delete(d.exceptions, i, i+1)
		}
	}
}

func (d *devices) unrestricted() bool { return d.allow && len(d.exceptions) == 0 }

// String is the form in which v1 takes a rule.
func (e device) String() string {
	kind, acc := "c", ""
	if e.block {
		kind = "b"
	}
	for i, c := range "mrw" {
		if e.access&(1<<i) != 0 {
			acc += string(c)
		}
	}
	return fmt.Sprintf("%s %s:%s %s", kind, number(e.major), number(e.minor), acc)
}

func number(n int64) string {
	if n == anyNumber {
		return "*"
	}
	return fmt.Sprint(n)
}

// hash names the rules: equal meaning, equal hash.
func (d *devices) hash() string {
	h := sha256.New()
	fmt.Fprintln(h, d.allow)
	for _, e := range d.exceptions {
		fmt.Fprintln(h, e)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// writeV1 gives the rules to an empty directory.
func (d *devices) writeV1(dir string) error {
	normal, other := "devices.deny", "devices.allow"
	if d.allow {
		normal, other = other, normal
	}
	if err := write(filepath.Join(dir, normal), "a"); err != nil {
		return err
	}
	for _, e := range d.exceptions {
		if err := write(filepath.Join(dir, other), e.String()); err != nil {
			return err
		}
	}
	return nil
}
