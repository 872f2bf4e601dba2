package mountspec

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/wherry-engine/wherry/internal/container"
)

func TestBind(t *testing.T) {
	for _, tt := range []struct {
		text string
		want container.Mount
		bad  string
	}{
		{text: "/a:/b", want: container.Mount{MountPoint: apicontainer.MountPoint{Type: "bind", Source: "/a", Destination: "/b", RW: true, Propagation: "rprivate"}, CreateSource: true, DefaultPropagation: true}},
		{text: "/a/../c:/b/:ro,rslave", want: container.Mount{MountPoint: apicontainer.MountPoint{Type: "bind", Source: "/c", Destination: "/b", Mode: "ro,rslave", Propagation: "rslave"}, CreateSource: true}},
		{text: "vol:/data:ro,Z", want: container.Mount{MountPoint: apicontainer.MountPoint{Type: "volume", Name: "vol", Destination: "/data", Mode: "ro,Z", Driver: "drv"}}},
		{text: "vol:/data:nocopy", want: container.Mount{MountPoint: apicontainer.MountPoint{Type: "volume", Name: "vol", Destination: "/data", Mode: "nocopy", RW: true, Driver: "drv"}, NoCopy: true}},
		{text: "/data", want: container.Mount{MountPoint: apicontainer.MountPoint{Type: "volume", Destination: "/data", RW: true, Driver: "drv"}, Anonymous: true}},
		{text: "/a:/b:nope", bad: "invalid mode: nope"},
		{text: "/a:/b:ro,rw", bad: "invalid mode: ro,rw"},
		{text: "/a:ro", bad: "invalid volume specification: '/a:ro'"},
		{text: "/a:b", bad: "mount path must be absolute"},
		{text: "/a:/", bad: "destination can't be '/'"},
		{text: "a:/b:ro:x", bad: "invalid volume specification"},
		{text: ":/b", bad: "invalid volume specification"},
		{text: "vol:/b:shared", bad: "field BindOptions must not be specified"},
		{text: "/a:/b:nocopy", bad: "field VolumeOptions must not be specified"},
	} {
		got, err := Bind(tt.text, "drv")
		switch {
		case tt.bad != "":
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.bad) {
				t.Errorf("%s: %v, want %q", tt.text, err, tt.bad)
			}
		case err != nil || !reflect.DeepEqual(got.Mount, tt.want):
			t.Errorf("%s: %+v, %v\nwant %+v", tt.text, got.Mount, err, tt.want)
		}
	}
}

func TestMount(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		m   mount.Mount
		bad string
	}{
		{mount.Mount{Type: "bind", Source: dir, Target: "/x"}, ""},
		{mount.Mount{Type: "bind", Source: filepath.Join(dir, "no"), Target: "/x"}, "bind source path does not exist: " + filepath.Join(dir, "no")},
		{mount.Mount{Type: "bind", Source: filepath.Join(dir, "no"), Target: "/x", BindOptions: &mount.BindOptions{CreateMountpoint: true}}, ""},
		{mount.Mount{Type: "bind", Source: "rel", Target: "/x"}, "mount path must be absolute"},
		{mount.Mount{Type: "bind", Source: dir, Target: "/x", BindOptions: &mount.BindOptions{Propagation: "odd"}}, "invalid propagation mode: odd"},
		{mount.Mount{Type: "bind", Source: dir, Target: "/x", VolumeOptions: &mount.VolumeOptions{}}, "field VolumeOptions must not be specified"},
		{mount.Mount{Type: "bind", Target: "/x"}, "field Source must not be empty"},
		{mount.Mount{Type: "volume", Source: "v", Target: "/x", VolumeOptions: &mount.VolumeOptions{Subpath: "a/b"}}, ""},
		{mount.Mount{Type: "volume", Source: "v", Target: "/x", VolumeOptions: &mount.VolumeOptions{Subpath: "../b"}}, "subpath must be a relative path within the volume"},
		{mount.Mount{Type: "volume", Target: "/x", VolumeOptions: &mount.VolumeOptions{Subpath: "b"}}, "must not set Subpath when using anonymous volumes"},
		{mount.Mount{Type: "volume", Target: "/x", TmpfsOptions: &mount.TmpfsOptions{}}, "field TmpfsOptions must not be specified"},
		{mount.Mount{Type: "image", Target: "/x"}, "field Source must not be empty"},
		{mount.Mount{Type: "image", Source: "img", Target: "/x"}, ""},
		{mount.Mount{Type: "tmpfs", Source: "x", Target: "/x"}, "field Source must not be specified"},
		{mount.Mount{Type: "tmpfs", Target: "/x", TmpfsOptions: &mount.TmpfsOptions{Options: [][]string{{"uid", "1"}}}}, "invalid option: uid"},
		{mount.Mount{Type: "tmpfs", Target: "x"}, "mount path must be absolute"},
		{mount.Mount{Type: "tmpfs"}, "field Target must not be empty"},
		{mount.Mount{Type: "odd", Target: "/x"}, "mount type unknown"},
	} {
		_, err := Mount(&tt.m)
		if tt.bad == "" && err != nil || tt.bad != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.bad)) {
			t.Errorf("%+v: %v, want %q", tt.m, err, tt.bad)
		}
	}
}

func TestVolumesFrom(t *testing.T) {
	for _, tt := range []struct {
		text, name string
		ro, bad    bool
	}{
		{text: "c", name: "c"}, {text: "c:ro", name: "c", ro: true}, {text: "c:rw,z", name: "c"},
		{text: "", bad: true}, {text: "c:shared", bad: true}, {text: "c:nocopy", bad: true}, {text: "c:odd", bad: true},
	} {
		name, ro, err := VolumesFrom(tt.text)
		if (err != nil) != tt.bad || !tt.bad && (name != tt.name || ro != tt.ro) {
			t.Errorf("%q: %q %v %v", tt.text, name, ro, err)
		}
	}
}
