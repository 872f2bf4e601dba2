// Package bootstrap owns how a base image is made from a Debian mirror, with
// nothing installed on the host: the suite's Release file is checked, its
// packages are chosen and fetched by their checksums, those of the base system
// unpacked, and what packages do when they are installed is done in a container
// without a network. The engine is used through its API alone.
package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"
)

// suiteOfBusybox is where the busybox image's program comes from.
const suiteOfBusybox = "stable"

// Options say what is made.
type Options struct {
	Name    string // debian:SUITE or busybox; also the image's name
	Mirror  string // "" is the one that the host's apt uses
	Include []string
}

// architectures are Debian's names of Go's.
var architectures = map[string]string{"amd64": "amd64", "arm64": "arm64", "arm": "armhf", "386": "i386", "ppc64le": "ppc64el", "s390x": "s390x", "riscv64": "riscv64"}

var (
	suiteForm   = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	packageForm = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
)

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// maker is one image on its way.
type maker struct {
	Options
	security    string // where security updates are, "" if nobody says
	suite, arch string
	api         client.APIClient
	say         func(string)
}

// Run makes the image and returns its id. progress is called by one goroutine
// at a time. After an error nothing is left.
func Run(ctx context.Context, api client.APIClient, o Options, progress func(jsonstream.Message)) (string, error) {
	m := &maker{Options: o, api: api, arch: architectures[runtime.GOARCH], say: func(text string) { progress(jsonstream.Message{Status: text}) }}
	name, tag, _ := strings.Cut(o.Name, ":")
	switch {
	case name == "debian" && tag != "":
		m.suite = tag
	case o.Name == "busybox" || o.Name == "busybox:latest":
		m.suite, m.Name = suiteOfBusybox, "busybox:latest"
	default:
		return "", invalid("cannot bootstrap %q: debian:SUITE (as debian:bookworm) and busybox are known", o.Name)
	}
	if !suiteForm.MatchString(m.suite) {
		return "", invalid("invalid suite %q", m.suite)
	}
	for _, p := range o.Include {
		if !packageForm.MatchString(p) {
			return "", invalid("invalid package name %q", p)
		}
	}
	if m.Mirror == "" {
		host := hostMirrors("/etc")
		if host.archive == "" {
			return "", invalid("no Debian mirror is known: apt on the engine's host names none; name one with --mirror URL")
		}
		m.Mirror, m.security = host.archive, host.security
	}
	m.Mirror = strings.TrimSuffix(m.Mirror, "/")
	if name == "busybox" {
		if len(o.Include) > 0 {
			return "", invalid("busybox has no packages to include")
		}
		return m.busybox(ctx)
	}
	return m.debian(ctx)
}

// list gets the suite's list of packages.
func (m *maker) list(ctx context.Context) (*index, error) {
	keys, err := hostKeys()
	if err != nil {
		return nil, err
	}
	m.say("Reading " + m.Mirror + " " + m.suite)
	r, err := openRelease(ctx, m.Mirror, m.suite, keys, m.say)
	if err != nil {
		return nil, err
	}
	if keys != nil {
		m.say("Signature checked with " + keyring)
	}
	return r.packages(ctx, m.Mirror, m.suite, m.arch)
}

// parallel is how many packages are fetched at a time.
const parallel = 6

// fetch gets packages and checks them.
func (m *maker) fetch(ctx context.Context, list []*pkg) ([][]byte, error) {
	out := make([][]byte, len(list))
	var total int64
	for _, p := range list {
		if total += p.size; p.size > maxDeb || total > 4*maxDeb {
			return nil, fmt.Errorf("package %s is too large: %d bytes, %d with the others", p.name, p.size, total)
		}
	}
	m.say(fmt.Sprintf("Fetching %d packages, %.1f MB", len(list), float64(total)/1e6))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, p := range list {
		g.Go(func() error {
			at := m.Mirror + "/" + p.filename
			b, err := get(ctx, at, p.size)
			if err == nil {
				err = p.check(at, b)
			}
			out[i] = b
			return err
		})
	}
	return out, g.Wait()
}

const archives = "var/cache/apt/archives/"

func (m *maker) debian(ctx context.Context) (string, error) {
	x, err := m.list(ctx)
	if err != nil {
		return "", err
	}
	s, err := x.choose(m.Include)
	if err != nil {
		return "", err
	}
	all := append(s.base[:len(s.base):len(s.base)], s.rest...)
	debs, err := m.fetch(ctx, all)
	if err != nil {
		return "", err
	}
	m.say("Unpacking the base system")
	return m.install(ctx, func(r *root) error {
		if err := r.links(); err != nil {
			return err
		}
		for i, p := range all {
			if i < len(s.base) {
				if err := r.unpack(debs[i], nil); err != nil {
					return fmt.Errorf("package %s: %w", p.name, err)
				}
			}
			if err := r.file(archives+path.Base(p.filename), 0o644, debs[i]); err != nil {
				return err
			}
		}
		for name, text := range m.settings(s) {
			mode := int64(0o644)
			if strings.HasPrefix(text, "#!") {
				mode = 0o755
			}
			if err := r.file(name, mode, []byte(text)); err != nil {
				return err
			}
		}
		return nil
	}, []string{"/bin/sh", "/" + scriptName}, `CMD ["bash"]`)
}

func (m *maker) busybox(ctx context.Context) (string, error) {
	x, err := m.list(ctx)
	if err != nil {
		return "", err
	}
	p := x.byName["busybox-static"]
	if p == nil {
		return "", errdefs.ErrNotFound.WithMessage("the mirror has no package busybox-static")
	}
	debs, err := m.fetch(ctx, []*pkg{p})
	if err != nil {
		return "", err
	}
	return m.install(ctx, func(r *root) error {
		found := false
		err := r.unpack(debs[0], func(name string) bool {
			if strings.HasSuffix(name, "bin/busybox") {
				found = true
			}
			return strings.HasSuffix(name, "bin/busybox") || name == "usr" || name == "usr/bin"
		})
		if err == nil && !found {
			err = errors.New("package busybox-static holds no busybox")
		}
		if err != nil {
			return err
		}
		if err := r.tw.WriteHeader(linkTo("bin", "usr/bin")); err != nil {
			return err
		}
		for _, dir := range []string{"etc", "home", "tmp", "var/tmp", "root", "usr/sbin"} {
			if err := r.directory(dir); err != nil {
				return err
			}
		}
		for name, text := range map[string]string{ //nolint:gosec // no account in it has a password
			"etc/passwd": "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
			"etc/group":  "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n",
		} {
			if err := r.file(name, 0o644, []byte(text)); err != nil {
				return err
			}
		}
		return nil
	}, []string{"/bin/busybox", "sh", "-c", "/bin/busybox --install -s /bin && /bin/busybox chmod 1777 /tmp /var/tmp && /bin/busybox chmod 700 /root"}, `CMD ["sh"]`)
}

// install runs a command in a container with the files that fill writes, and
// makes what it leaves the image.
func (m *maker) install(ctx context.Context, fill func(*root) error, command []string, change string) (_ string, err error) {
	r, w := io.Pipe()
	go func() {
		root := newRoot(w)
		err := fill(root)
		if err == nil {
			err = root.tw.Close()
		}
		w.CloseWithError(err)
	}()
	first, err := m.load(ctx, r, "", nil)
	r.CloseWithError(errors.Join(err, io.ErrClosedPipe)) // the writer must not wait for ever
	if err != nil {
		return "", fmt.Errorf("unpack the base system: %w", err)
	}
	clean := context.WithoutCancel(ctx)
	defer func() {
		_, rerr := m.api.ImageRemove(clean, first, client.ImageRemoveOptions{Force: true})
		err = errors.Join(err, rerr)
	}()
	id, err := m.run(ctx, first, command)
	if id != "" {
		defer func() {
			_, rerr := m.api.ContainerRemove(clean, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
			err = errors.Join(err, rerr)
		}()
	}
	if err != nil {
		return "", err
	}
	m.say("Making the image")
	files, err := m.api.ContainerExport(ctx, id, client.ContainerExportOptions{})
	if err != nil {
		return "", err
	}
	defer files.Close()
	r, w = io.Pipe()
	go func() { w.CloseWithError(tidy(files, w)) }()
	made, err := m.load(ctx, r, m.Name, []string{change})
	r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
	return made, err
}
