package build

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/ociindex"
	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	"github.com/moby/buildkit/util/staticfs"
	digest "github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"

	"github.com/wherry-engine/wherry/internal/cli/build/localdir"
	"github.com/wherry-engine/wherry/internal/cli/shell"
)

const dockerfile = "Dockerfile"

// inputs offers the engine what a build reads: context, Dockerfile and named
// contexts. A directory is offered as it is, and the engine asks for the files
// that it does not have yet.
type inputs struct {
	opt   *client.SolveOpt
	stdin *shell.In
	fail  func(error)       // ends the build
	dirs  map[string]string // that are offered as they are, by the names that the engine knows

	closers []func()
}

// close ends what was opened; after it the engine cannot read any more.
func (in *inputs) close() {
	for _, f := range in.closers {
		f()
	}
}

func (in *inputs) load(o *options) error {
	in.opt.LocalMounts, in.dirs = map[string]fsutil.FS{}, map[string]string{}
	if err := in.main(o); err != nil {
		return err
	}
	for _, c := range o.contexts {
		name, value, ok := strings.Cut(c, "=")
		if !ok || name == "" || value == "" {
			return fmt.Errorf("invalid context value: %s, expected key=value", c)
		}
		if err := in.named(strings.ToLower(name), value); err != nil {
			return fmt.Errorf("build context %s: %w", name, err)
		}
	}
	return nil
}

// main is the context and the Dockerfile.
func (in *inputs) main(o *options) error {
	a := in.opt.FrontendAttrs
	a["filename"] = dockerfile
	if o.file != "" {
		a["filename"] = o.file
	}
	switch {
	case o.context == "-":
		if o.file == "-" {
			return errors.New("invalid argument: can't use stdin for both build context and dockerfile")
		}
		return in.fromStdin(o)
	case remote(o.context):
		a["context"] = o.context
		switch {
		case o.file == "-" || remote(o.file):
			return in.dockerfileFrom(o.file)
		case filepath.IsAbs(o.file):
			return in.dockerfileAt(o.file)
		}
		return nil // the frontend finds it in the context
	}
	if err := in.directory("context", o.context); err != nil {
		return fmt.Errorf("unable to prepare context: %w", err)
	}
	abs, err := filepath.Abs(o.context)
	if err != nil {
		return err
	}
	in.opt.SharedKey = sharedKey(abs)
	a["vcs:localdir:context"] = filepath.Base(abs) // a name for the history
	switch {
	case o.file == "-" || remote(o.file):
		return in.dockerfileFrom(o.file)
	case o.file == "":
		return in.directory(localDockerfile, o.context)
	}
	return in.dockerfileAt(o.file)
}

// localDockerfile is the name under which the frontend asks for the Dockerfile.
const localDockerfile = "dockerfile"

// dockerfileAt offers a file of this machine.
func (in *inputs) dockerfileAt(path string) error {
	in.opt.FrontendAttrs["dockerfilekey"] = localDockerfile
	in.opt.FrontendAttrs["filename"] = filepath.Base(path)
	if err := in.directory(localDockerfile, filepath.Dir(path)); err != nil {
		return fmt.Errorf("unable to prepare context: unable to evaluate symlinks in Dockerfile path: %w", err)
	}
	return nil
}

// dockerfileFrom takes the Dockerfile from stdin (-) or lets the engine fetch
// it from a URL.
func (in *inputs) dockerfileFrom(where string) error {
	a := in.opt.FrontendAttrs
	a["filename"] = dockerfile
	if where != "-" {
		if in.opt.FrontendInputs == nil {
			in.opt.FrontendInputs = map[string]llb.State{}
		}
		in.opt.FrontendInputs[localDockerfile] = llb.HTTP(where, llb.Filename(dockerfile), llb.WithCustomName("load Dockerfile from "+where))
		return nil
	}
	b, err := io.ReadAll(in.stdin)
	if err != nil {
		return fmt.Errorf("read the Dockerfile from stdin: %w", err)
	}
	in.inMemory(b)
	return nil
}

func (in *inputs) inMemory(text []byte) {
	fs := staticfs.NewFS()
	// The engine takes a file of the same size and time for the one it has.
	fs.Add(dockerfile, &fstypes.Stat{Mode: 0o644, ModTime: time.Now().UnixNano()}, text)
	in.opt.LocalMounts[localDockerfile] = fs
	in.opt.FrontendAttrs["dockerfilekey"] = localDockerfile
}

// fromStdin takes either an archive, which is the context, or a Dockerfile
// without any context.
func (in *inputs) fromStdin(o *options) error {
	r := bufio.NewReaderSize(in.stdin, 64<<10)
	head, err := r.Peek(1024)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("failed to peek context header from STDIN: %w", err)
	}
	if len(head) == 0 {
		return errors.New("unable to prepare context: stdin is empty; it takes a Dockerfile or a tar archive")
	}
	if isArchive(head) {
		up := uploadprovider.New()
		in.opt.FrontendAttrs["context"] = up.Add(io.NopCloser(r))
		in.opt.Session = append(in.opt.Session, up)
		switch {
		case remote(o.file):
			return in.dockerfileFrom(o.file)
		case filepath.IsAbs(o.file):
			return in.dockerfileAt(o.file)
		}
		return nil
	}
	if o.file != "" {
		return errors.New("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("read the Dockerfile from stdin: %w", err)
	}
	in.opt.LocalMounts["context"] = staticfs.NewFS()
	in.inMemory(b)
	return nil
}

// directory offers a directory under a name.
func (in *inputs) directory(name, path string) error {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("path %q not found", path)
	case err != nil:
		return err
	case !st.IsDir():
		return fmt.Errorf("path %q is not a directory", path)
	}
	fs, err := localdir.Open(path, in.fail)
	if err != nil {
		return err
	}
	in.opt.LocalMounts[name], in.dirs[name] = fs, path
	return nil
}

// named is one --build-context.
func (in *inputs) named(name, value string) error {
	a := in.opt.FrontendAttrs
	switch {
	case remote(value), strings.HasPrefix(value, "docker-image://"):
		a["context:"+name] = value
		return nil
	case strings.HasPrefix(value, "oci-layout://"):
		return in.layout(name, strings.TrimPrefix(value, "oci-layout://"))
	case strings.Contains(value, "://"):
		kind, _, _ := strings.Cut(value, "://")
		return fmt.Errorf("%s:// is not known; use a directory, docker-image://, oci-layout://, a git or an http address", kind)
	}
	local := name
	if local == "context" || local == localDockerfile {
		local = "_" + name // those names are taken
	}
	if err := in.directory(local, value); err != nil {
		return err
	}
	abs, err := filepath.Abs(value)
	if err != nil {
		return err
	}
	a["context:"+name] = "local:" + local
	a["sharedkey:localdir:"+name] = sharedKey(abs)
	return nil
}

// layout offers an image of an OCI layout: path[:tag][@digest].
func (in *inputs) layout(name, ref string) error {
	path, dgst, _ := strings.Cut(ref, "@")
	tag := "latest"
	if i := strings.LastIndexByte(path, ':'); i > strings.LastIndexByte(path, '/') {
		path, tag = path[:i], path[i+1:]
	}
	if dgst == "" {
		index := ociindex.NewStoreIndex(path)
		desc, err := index.Get(tag)
		if err != nil {
			return err
		}
		if desc == nil {
			if desc, err = index.GetSingle(); err != nil {
				return err
			}
		}
		if desc == nil {
			return fmt.Errorf("%s holds no image with the tag %s", path, tag)
		}
		dgst = desc.Digest.String()
	}
	if _, err := digest.Parse(dgst); err != nil {
		return fmt.Errorf("invalid digest %s: %w", dgst, err)
	}
	store, err := contentlocal.NewStore(path)
	if err != nil {
		return err
	}
	id := newRef()
	if in.opt.OCIStores == nil {
		in.opt.OCIStores = contentStores{}
	}
	in.opt.OCIStores[id] = store
	in.opt.FrontendAttrs["context:"+name] = "oci-layout://" + id + "@" + dgst
	return nil
}

var httpURL = regexp.MustCompile(`^https?://`)

// remote reports whether the engine fetches this itself.
func remote(s string) bool {
	if httpURL.MatchString(s) {
		return true
	}
	if _, err := os.Stat(s); err == nil {
		return false // github.com/x/y may also be a directory
	}
	_, ok, _ := dfgitutil.ParseGitRef(s)
	return ok
}

// sharedKey names a directory of this machine, so that the engine compares it
// with what it got from there the last time.
func sharedKey(abs string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "" // the path alone is a worse name, never a wrong one
	}
	sum := sha256.Sum256([]byte(host + "\x00" + abs))
	return filepath.Base(abs) + ":" + hex.EncodeToString(sum[:8])
}

// isArchive knows tar, plain or compressed, by its first bytes.
func isArchive(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b\x08", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	_, err := tar.NewReader(bytes.NewReader(head)).Next()
	return err == nil
}
