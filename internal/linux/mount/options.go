package mount

import (
	"strings"

	"golang.org/x/sys/unix"
)

// Options is a parsed list of fstab-style options.
type Options struct {
	Set, Clear uint64   // MOUNT_ATTR_* of the mount
	SetSub     uint64   // MOUNT_ATTR_* for everything below too (rro, rnosuid...)
	Spread     uint64   // MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE; 0 = not said
	SpreadAll  bool     // the r form of Spread
	Bind       bool     // bind or rbind
	Recursive  bool     // rbind
	Data       []string // what the file system itself gets
}

type attribute struct {
	flag  uint64
	clear bool
}

var attributes = map[string]attribute{
	"ro":            {unix.MOUNT_ATTR_RDONLY, false},
	"rw":            {unix.MOUNT_ATTR_RDONLY, true},
	"nosuid":        {unix.MOUNT_ATTR_NOSUID, false},
	"suid":          {unix.MOUNT_ATTR_NOSUID, true},
	"nodev":         {unix.MOUNT_ATTR_NODEV, false},
	"dev":           {unix.MOUNT_ATTR_NODEV, true},
	"noexec":        {unix.MOUNT_ATTR_NOEXEC, false},
	"exec":          {unix.MOUNT_ATTR_NOEXEC, true},
	"nodiratime":    {unix.MOUNT_ATTR_NODIRATIME, false},
	"diratime":      {unix.MOUNT_ATTR_NODIRATIME, true},
	"noatime":       {unix.MOUNT_ATTR_NOATIME, false},
	"strictatime":   {unix.MOUNT_ATTR_STRICTATIME, false},
	"relatime":      {0, false},
	"atime":         {0, false},
	"norelatime":    {0, false},
	"nostrictatime": {0, false},
	"nosymfollow":   {unix.MOUNT_ATTR_NOSYMFOLLOW, false},
	"symfollow":     {unix.MOUNT_ATTR_NOSYMFOLLOW, true},
	"defaults":      {0, false},
}

var spreads = map[string]uint64{
	"private": unix.MS_PRIVATE, "slave": unix.MS_SLAVE, "shared": unix.MS_SHARED, "unbindable": unix.MS_UNBINDABLE,
}

// ParseOptions sorts options into those of the mount and those of the file
// system. Later ones win.
func ParseOptions(options []string) Options {
	var o Options
	for _, opt := range options {
		switch opt {
		case "bind":
			o.Bind = true
			continue
		case "rbind":
			o.Bind, o.Recursive = true, true
			continue
		case "":
			continue
		}
		if a, ok := attributes[opt]; ok {
			o.apply(a)
			continue
		}
		if s, ok := spreads[opt]; ok {
			o.Spread, o.SpreadAll = s, false
			continue
		}
		if rest, ok := strings.CutPrefix(opt, "r"); ok {
			if s, ok := spreads[rest]; ok {
				o.Spread, o.SpreadAll = s, true
				continue
			}
			if a, ok := attributes[rest]; ok {
				o.apply(a)
				if !a.clear {
					o.SetSub |= a.flag
				}
				continue
			}
		}
		o.Data = append(o.Data, opt)
	}
	return o
}

func (o *Options) apply(a attribute) {
	if a.clear {
		o.Set &^= a.flag
		o.SetSub &^= a.flag
		o.Clear |= a.flag
		return
	}
	o.Clear &^= a.flag
	o.Set |= a.flag
}
