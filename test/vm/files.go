package vm

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// fetchFiles gives a directory with the files of Debian packages that match one
// of the patterns, laid out as in the packages; nothing is installed here. It is
// kept under its name.
func fetchFiles(ctx context.Context, o Options, name string, packages, patterns []string) (string, error) {
	dir := filepath.Join(o.Cache, name)
	if isDir(dir) {
		return dir, nil
	}
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(o.Cache, "fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	all, kept := filepath.Join(tmp, "all"), filepath.Join(tmp, "kept")
	for _, p := range packages {
		fmt.Fprintf(o.Output, "vm: downloading %s\n", p)
		if err := unpack(ctx, o, tmp, p, all); err != nil {
			return "", err
		}
	}
	for _, p := range patterns {
		found, err := filepath.Glob(filepath.Join(all, p))
		if err != nil || len(found) == 0 {
			return "", fmt.Errorf("%s is in none of the packages %s", p, strings.Join(packages, ", "))
		}
		for _, f := range found {
			rel, err := filepath.Rel(all, f)
			if err != nil {
				return "", err
			}
			if err := copyFile(f, filepath.Join(kept, rel)); err != nil {
				return "", err
			}
		}
	}
	return dir, os.Rename(kept, dir)
}

// placed lists the files below dir as a guest's, with the same paths.
func placed(dir string) (list []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			list = append(list, path+"="+strings.TrimPrefix(path, dir))
		}
		return err
	})
	return list, err
}

// fetchEmulator gives a directory with an emulator of arm64 and the line that
// registers it.
func fetchEmulator(ctx context.Context, o Options) (program, line string, err error) {
	program, line = "usr/bin/qemu-aarch64-static", "usr/lib/binfmt.d/qemu-aarch64.conf"
	dir, err := fetchFiles(ctx, o, "qemu-user-static", []string{"qemu-user-static"}, []string{program, line})
	return filepath.Join(dir, program), filepath.Join(dir, line), err
}

const lib, usrLib = "lib/x86_64-linux-gnu/", "usr/lib/x86_64-linux-gnu/"

// fetchFileServers gives what makes a guest serve NFS (by its kernel) and SMB (by
// Samba, whose libraries are most of it: 74 MB).
func fetchFileServers(ctx context.Context, o Options) ([]string, error) {
	nfs, err := fetchNFS(ctx, o)
	if err != nil {
		return nil, err
	}
	smb, err := fetchSMB(ctx, o)
	return append(nfs, smb...), err
}

// fetchForeign gives a guest on arm64 what others have from this machine:
// docker's client and what makes file systems.
func fetchForeign(ctx context.Context, o Options) ([]string, error) {
	const lib = "lib/aarch64-linux-gnu/"
	dir, err := fetchFiles(ctx, o, "foreign-"+o.Arch, []string{
		"docker.io", "libc6", "e2fsprogs", "libext2fs2", "libcom-err2", "libblkid1", "libuuid1",
	}, []string{
		"usr/bin/docker", "sbin/mke2fs", "lib/ld-linux-aarch64.so.1", lib + "libc.so.6",
		lib + "lib*2fs.so.2", lib + "libe2p.so.2", lib + "libcom_err.so.2", "usr/" + lib + "lib[bu]*id.so.1",
	})
	if err != nil {
		return nil, err
	}
	return placed(dir)
}

func fetchNFS(ctx context.Context, o Options) ([]string, error) {
	dir, err := fetchFiles(ctx, o, "file-server", []string{
		"nfs-kernel-server", "libevent-core-2.1-7", "libtirpc3", "libtirpc-common", "libsqlite3-0", "libwrap0",
		"libgssapi-krb5-2", "libkrb5-3", "libkrb5support0", "libk5crypto3", "libkeyutils1", "libcom-err2", "libnsl2",
	}, []string{
		"usr/sbin/exportfs", "usr/sbin/rpc.nfsd", "usr/sbin/rpc.mountd", "etc/netconfig",
		lib + "lib*.so.[0-9]", usrLib + "lib*.so.[0-9]",
	})
	if err != nil {
		return nil, err
	}
	return placed(dir)
}

func fetchSMB(ctx context.Context, o Options) ([]string, error) {
	dir, err := fetchFiles(ctx, o, "samba", []string{
		"samba", "samba-common-bin", "samba-libs", "libavahi-client3", "libavahi-common3", "libbsd0", "libcom-err2", "libgssapi-krb5-2", "libicu72", "libjansson4",
		"libk5crypto3", "libkeyutils1", "libkrb5-3", "libkrb5support0", "libldap-2.5-0", "libldb2", "libpopt0", "libsasl2-2", "libtalloc2", "libtdb1", "libtevent0",
		"libtirpc3", "libwbclient0",
	}, []string{
		"usr/sbin/smbd", "usr/bin/smbpasswd",
		lib + "lib*.so.[0-9]", usrLib + "lib*.so.[0-9]", usrLib + "lib*.so.[0-9][0-9]", usrLib + "samba/lib*.so.[0-9]",
	})
	if err != nil {
		return nil, err
	}
	return placed(dir)
}
