package buildcontext

import (
	"archive/tar"
	"fmt"
	"math"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
)

// Broken begins what is said of an archive that cannot be read, in docker's words.
const Broken = "Error processing tar file: "

func broken(err error) error { return errdefs.ErrInvalidArgument.WithMessage(Broken + err.Error()) }

// inside is a name below the top, whatever it says.
func inside(name string) string {
	if name = strings.TrimPrefix(path.Clean("/"+name), "/"); name == "" {
		return "."
	}
	return name
}

// describing gives an entry in BuildKit's words.
func describing(name string, h *tar.Header) (*types.Stat, error) {
	if h.Uid < 0 || h.Gid < 0 || h.Uid >= math.MaxUint32 || h.Gid >= math.MaxUint32 {
		return nil, broken(fmt.Errorf("%q belongs to %d:%d", name, h.Uid, h.Gid))
	}
	st := &types.Stat{Path: name, Uid: uint32(h.Uid), Gid: uint32(h.Gid), ModTime: nano(h.ModTime)}
	mode := os.FileMode(h.Mode) & os.ModePerm
	for _, b := range []struct {
		bit int64
		is  os.FileMode
	}{{unix.S_ISUID, os.ModeSetuid}, {unix.S_ISGID, os.ModeSetgid}, {unix.S_ISVTX, os.ModeSticky}} {
		if h.Mode&b.bit != 0 {
			mode |= b.is
		}
	}
	switch h.Typeflag {
	case tar.TypeReg:
		st.Size = h.Size
	case tar.TypeLink:
	case tar.TypeDir:
		mode |= os.ModeDir
	case tar.TypeSymlink:
		mode, st.Linkname = os.ModeSymlink|os.ModePerm, h.Linkname
	case tar.TypeFifo:
		mode |= os.ModeNamedPipe
	case tar.TypeChar:
		mode |= os.ModeDevice | os.ModeCharDevice
	case tar.TypeBlock:
		mode |= os.ModeDevice
	default:
		return nil, broken(fmt.Errorf("unhandled tar header type %d", h.Typeflag))
	}
	if mode&os.ModeDevice != 0 {
		st.Devmajor, st.Devminor = h.Devmajor, h.Devminor
	}
	st.Mode = uint32(mode)
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || overlays(name) {
			continue
		}
		if st.Xattrs == nil {
			st.Xattrs = map[string][]byte{}
		}
		st.Xattrs[name] = []byte(value)
	}
	return st, nil
}

// nano is a time as files of the client have it; what cannot be one is the first.
func nano(t time.Time) int64 {
	if t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, math.MaxInt64)) {
		return 0
	}
	return t.UnixNano()
}
