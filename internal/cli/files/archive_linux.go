package files

import (
	"archive/tar"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

func makeNode(root *os.Root, name string, h *tar.Header) error {
	d, err := root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer d.Close()
	kind := map[byte]uint32{tar.TypeFifo: unix.S_IFIFO, tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[h.Typeflag]
	err = unix.Mknodat(int(d.Fd()), path.Base(name), kind|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	if err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	return nil
}
