package mount

import (
	"strings"

	"golang.org/x/sys/unix"
)

// optionPage is what mount(2) copies of its options: a page, with the
// terminating zero.
const optionPage = 4095

// Overlay is an overlay mount in the form that fits the kernel's option page:
// Data is valid when the working directory is Base. When even that is too
// long (127 long lower directories with no common parent), Data has a %N for
// each of Paths, and Mount goes through descriptors.
type Overlay struct {
	Base  string
	Data  string
	Paths []string
}

// PackOverlay writes the options of an overlay with the lower directories
// (topmost first), upper and work (both "" for a read-only one) and further
// options such as "volatile".
func PackOverlay(lower []string, upper, work string, extra []string) Overlay {
	all := append([]string{}, lower...)
	if upper != "" {
		all = append(all, upper, work)
	}
	base := commonDir(all)
	data := overlayData(lower, upper, work, extra, func(p string) string {
		if p == base {
			return "."
		}
		return escape(strings.TrimPrefix(strings.TrimPrefix(p, base), "/"))
	})
	if len(data) <= optionPage {
		return Overlay{Base: base, Data: data}
	}
	n := 0
	data = overlayData(lower, upper, work, extra, func(string) string {
		n++
		return "%"
	})
	return Overlay{Base: base, Data: data, Paths: all}
}

func overlayData(lower []string, upper, work string, extra []string, name func(string) string) string {
	var b strings.Builder
	b.WriteString("lowerdir=")
	for i, l := range lower {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(name(l))
	}
	if upper != "" {
		b.WriteString(",upperdir=" + name(upper) + ",workdir=" + name(work))
	}
	for _, e := range extra {
		b.WriteString("," + e)
	}
	return b.String()
}

// escape protects what separates options and lower directories.
func escape(p string) string {
	if !strings.ContainsAny(p, `\,:`) {
		return p
	}
	var b strings.Builder
	for _, c := range []byte(p) {
		if c == '\\' || c == ',' || c == ':' {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}

// commonDir is the deepest directory above, or equal to, all absolute paths.
func commonDir(paths []string) string {
	if len(paths) == 0 {
		return "/"
	}
	base := paths[0]
	for _, p := range paths[1:] {
		for base != "" && p != base && !strings.HasPrefix(p, base+"/") {
			base = base[:strings.LastIndexByte(base, '/')]
		}
	}
	if base == "" {
		return "/"
	}
	return base
}

// Mount mounts the overlay over Base and opens it. It changes the working
// directory. The caller closes the descriptor.
func (o *Overlay) Mount() (int, error) {
	if err := unix.Chdir(o.Base); err != nil {
		return -1, &Error{"chdir", o.Base, err}
	}
	data := o.Data
	if len(o.Paths) > 0 {
		fds := make([]int, 0, len(o.Paths))
		defer func() {
			for _, fd := range fds {
				unix.Close(fd)
			}
		}()
		var b strings.Builder
		for _, c := range []byte(o.Data) {
			if c != '%' || len(fds) == len(o.Paths) {
				b.WriteByte(c)
				continue
			}
			fd, err := unix.Open(o.Paths[len(fds)], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return -1, &Error{"open", o.Paths[len(fds)], err}
			}
			fds = append(fds, fd)
			b.WriteString("/proc/self/fd/" + itoa(fd))
		}
		data = b.String()
	}
	if err := unix.Mount("overlay", ".", "overlay", 0, data); err != nil {
		return -1, &Error{"mount", "overlay: " + data, err}
	}
	fd, err := unix.Open(o.Base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &Error{"open", o.Base, err}
	}
	return fd, nil
}

func itoa(n int) string {
	if n < 10 {
		return string([]byte{'0' + byte(n)})
	}
	return itoa(n/10) + string([]byte{'0' + byte(n%10)})
}
