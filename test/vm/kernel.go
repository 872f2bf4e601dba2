package vm

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/ulikunitz/xz"
)

// kernel is Debian's kernel, unpacked.
type kernel struct {
	release string // as uname says
	image   string
	modules string // directory of modules, below which the kernel's own paths start
	busybox string
	deps    map[string][]string // module file -> files it needs, both relative to modules
	alias   []string            // "alias PATTERN MODULE"
}

func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}

// fetchKernel downloads and unpacks what is not in the cache yet.
func fetchKernel(ctx context.Context, o Options) (*kernel, error) {
	root := filepath.Join(o.Cache, o.Kernel)
	have, err := filepath.Glob(filepath.Join(root, "linux-image-*"))
	if err != nil {
		return nil, err
	}
	if len(have) == 0 {
		name, err := newestKernel(ctx, o)
		if err != nil {
			return nil, err
		}
		tmp, err := os.MkdirTemp(o.Cache, "fetch-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(tmp)
		fmt.Fprintf(o.Output, "vm: downloading %s\n", name)
		for _, p := range []string{name, "busybox-static"} {
			if err := unpack(ctx, o, tmp, p, filepath.Join(tmp, "root", p)); err != nil {
				return nil, err
			}
		}
		if err := os.RemoveAll(root); err != nil {
			return nil, err
		}
		if err := os.Rename(filepath.Join(tmp, "root"), root); err != nil {
			return nil, err
		}
		have = []string{filepath.Join(root, name)}
	}
	k := &kernel{busybox: filepath.Join(root, "busybox-static", "bin", "busybox"), deps: map[string][]string{}}
	image, err := filepath.Glob(filepath.Join(have[0], "boot", "vmlinuz-*"))
	if err != nil || len(image) != 1 {
		return nil, fmt.Errorf("%s: want one kernel, found %v", have[0], image)
	}
	k.image = image[0]
	k.release = strings.TrimPrefix(filepath.Base(k.image), "vmlinuz-")
	k.modules = filepath.Join(have[0], "lib", "modules", k.release)
	return k, k.index()
}

// newestKernel gives the package that o.Kernel, which is none itself, depends on.
func newestKernel(ctx context.Context, o Options) (string, error) {
	find := func() (string, error) {
		out, err := o.apt(ctx, o.Cache, "apt-cache", "depends", o.Kernel)
		if err != nil {
			return "", err
		}
		for f := range strings.FieldsSeq(out) {
			if strings.HasPrefix(f, "linux-image-") && f != o.Kernel {
				return f, nil
			}
		}
		return "", fmt.Errorf("%s: no kernel among its dependencies", o.Kernel)
	}
	name, err := find()
	if err != nil {
		// A machine that never updated its lists has none.
		if _, err := o.apt(ctx, o.Cache, "apt-get", "update", "-q"); err != nil {
			return "", err
		}
		name, err = find()
	}
	return name, err
}

// foreign says that the guest's processors are not this machine's.
func foreign(o Options) bool { return o.Arch != "" && o.Arch != runtime.GOARCH }

// apt runs one of apt's programs. What is of another architecture has lists of
// its own in the cache: this machine's packages do not change.
func (o Options) apt(ctx context.Context, dir, program string, args ...string) (string, error) {
	if foreign(o) {
		state := filepath.Join(o.Cache, "apt-"+o.Arch)
		for _, d := range []string{"lists/partial", "cache/archives/partial"} {
			if err := os.MkdirAll(filepath.Join(state, d), 0o755); err != nil {
				return "", err
			}
		}
		var own []string
		for _, v := range []string{
			"APT::Architecture=" + o.Arch, "APT::Architectures=" + o.Arch, "Dir::State::Lists=" + state + "/lists",
			"Dir::State::status=/dev/null", "Dir::Cache=" + state + "/cache",
		} {
			own = append(own, "-o", v)
		}
		args = append(own, args...)
	}
	return output(ctx, dir, program, args...)
}

func unpack(ctx context.Context, o Options, dir, name, to string) error {
	if _, err := o.apt(ctx, dir, "apt-get", "download", "-q", name); err != nil {
		// As in newestKernel: the lists were never updated, or are too old.
		if _, uerr := o.apt(ctx, dir, "apt-get", "update", "-q"); uerr != nil {
			return errors.Join(err, uerr)
		}
		if _, err := o.apt(ctx, dir, "apt-get", "download", "-q", name); err != nil {
			return err
		}
	}
	debs, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("download of %s: found %v", name, debs)
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	_, err = output(ctx, dir, "dpkg-deb", "-x", debs[0], to)
	return err
}

// index reads from the modules themselves what depmod would: the package's
// lists are made at installation, which does not happen here.
func (k *kernel) index() error {
	byName := map[string]string{}
	needs := map[string][]string{}
	err := filepath.WalkDir(k.modules, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _, ok := strings.Cut(d.Name(), ".ko")
		if !ok {
			return nil
		}
		rel, err := filepath.Rel(k.modules, path)
		if err != nil {
			return err
		}
		info, err := modinfo(path)
		if err != nil {
			return err
		}
		name = strings.ReplaceAll(name, "-", "_")
		byName[name] = rel
		for _, kv := range info {
			switch key, value, _ := strings.Cut(kv, "="); key {
			case "depends":
				needs[rel] = strings.FieldsFunc(value, func(r rune) bool { return r == ',' })
			case "alias":
				k.alias = append(k.alias, "alias "+value+" "+name)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var visit func(rel string, into *[]string)
	visit = func(rel string, into *[]string) {
		for _, n := range needs[rel] {
			if dep := byName[strings.ReplaceAll(n, "-", "_")]; dep != "" && !slices.Contains(*into, dep) {
				visit(dep, into)
				*into = append(*into, dep)
			}
		}
	}
	for _, rel := range byName {
		var all []string
		visit(rel, &all)
		slices.Reverse(all) // as in modules.dep: what loads first comes last
		k.deps[rel] = all
	}
	if len(k.deps) == 0 {
		return fmt.Errorf("%s: no modules", k.modules)
	}
	return nil
}

// modinfo reads the strings that describe a module.
func modinfo(path string) ([]string, error) {
	b, err := readModule(path)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("%s: no .modinfo", path)
	}
	data, err := s.Data()
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.Trim(string(data), "\x00"), "\x00"), nil
}

func readModule(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	switch filepath.Ext(path) {
	case ".ko":
		return b, nil
	case ".xz":
		r, err := xz.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	}
	return nil, fmt.Errorf("%s: %w", path, errors.New("unknown compression"))
}

// order lists module files so that each comes after what it needs.
func (k *kernel) order(names ...string) []string {
	var out []string
	add := func(rel string) {
		if !slices.Contains(out, rel) {
			out = append(out, rel)
		}
	}
	for _, want := range names {
		for rel, deps := range k.deps {
			name, _, _ := strings.Cut(filepath.Base(rel), ".ko")
			if strings.ReplaceAll(name, "-", "_") != want {
				continue
			}
			for _, d := range slices.Backward(deps) {
				add(d)
			}
			add(rel)
		}
	}
	return out
}
