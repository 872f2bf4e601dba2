package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	mobyclient "github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/jsonmessage"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

type contentStores = map[string]content.Store

// engineImage is the exporter that puts the image among the engine's own.
const engineImage = "moby"

// outcome is what is left to do when the engine has built.
type outcome struct {
	push  []string // names that the engine pushes then
	files []*lateFile
}

// exports decides where the result goes.
func (o *options) exports(sh *shell.Shell, opt *client.SolveOpt) (*outcome, error) {
	attests, err := o.attestations()
	if err != nil {
		return nil, err
	}
	for k, v := range attests {
		opt.FrontendAttrs["attest:"+k] = v
	}
	for _, text := range o.outputs {
		e, err := parseOutput(text)
		if err != nil {
			return nil, err
		}
		opt.Exports = append(opt.Exports, e)
	}
	switch {
	case o.push && len(opt.Exports) == 0:
		opt.Exports = []client.ExportEntry{{Type: "registry", Attrs: map[string]string{}}}
	case o.load && len(opt.Exports) == 0:
		opt.Exports = []client.ExportEntry{{Type: "docker", Attrs: map[string]string{}}}
	case o.load || o.push:
		if err := o.shorthand(opt); err != nil {
			return nil, err
		}
	case len(opt.Exports) == 0 && o.call.name == "":
		opt.Exports = []client.ExportEntry{{Type: client.ExporterImage, Attrs: map[string]string{}}}
	}
	out := &outcome{}
	many := len(o.platformList()) > 1 || len(attests) > 0
	var exports []client.ExportEntry
	for _, e := range opt.Exports {
		if e.Type == "cacheonly" {
			continue
		}
		if err := o.export(sh, &e, many, out); err != nil {
			return nil, err
		}
		exports = append(exports, e)
	}
	opt.Exports = exports
	if o.squash && !slices.ContainsFunc(exports, func(e client.ExportEntry) bool { return e.Type == engineImage }) {
		return nil, errors.New("--squash is for an image in the engine; it cannot be used with these outputs")
	}
	return out, nil
}

// shorthand adds --push or --load to outputs that were given.
func (o *options) shorthand(opt *client.SolveOpt) error {
	for i := range opt.Exports {
		e := &opt.Exports[i]
		if o.push && (e.Type == client.ExporterImage || e.Type == "registry") {
			e.Attrs["push"] = "true"
			return nil
		}
		if o.load && e.Type == client.ExporterDocker && e.Attrs["dest"] == "" {
			return nil
		}
	}
	kind := "registry"
	if o.load {
		kind = client.ExporterDocker
	}
	opt.Exports = append(opt.Exports, client.ExportEntry{Type: kind, Attrs: map[string]string{}})
	return nil
}

// parseOutput parses one --output: a directory, - for a tar on stdout, or
// type=...,key=value.
func parseOutput(text string) (client.ExportEntry, error) {
	e := client.ExportEntry{Attrs: map[string]string{}}
	switch {
	case text == "-":
		e.Type, e.Attrs["dest"] = client.ExporterTar, "-"
		return e, nil
	case !strings.Contains(text, "="):
		e.Type, e.Attrs["dest"] = client.ExporterLocal, text
		return e, nil
	}
	attrs, err := pairs("output", text)
	if err != nil {
		return e, err
	}
	e.Type = attrs["type"]
	delete(attrs, "type")
	if e.Type == "" {
		return e, errors.New("type is required for output")
	}
	e.Attrs = attrs
	return e, nil
}

// export completes one output.
func (o *options) export(sh *shell.Shell, e *client.ExportEntry, many bool, out *outcome) error {
	if e.Type == "registry" {
		e.Type, e.Attrs["push"] = client.ExporterImage, "true"
	}
	dest := e.Attrs["dest"]
	delete(e.Attrs, "dest")
	switch e.Type {
	case client.ExporterImage, client.ExporterOCI, client.ExporterDocker:
		if len(o.tags) > 0 {
			names := make([]string, len(o.tags))
			for i, t := range o.tags {
				names[i] = familiar(t)
			}
			e.Attrs["name"] = strings.Join(names, ",")
		}
		if err := o.annotate(e); err != nil {
			return err
		}
	}
	switch e.Type {
	case client.ExporterLocal:
		if dest == "" {
			return errors.New("dest is required for local output")
		}
		if dest == "-" {
			return errors.New("dest cannot be stdout for local output")
		}
		if st, err := os.Stat(dest); err == nil && !st.IsDir() {
			return fmt.Errorf("destination directory %q is a file", dest)
		}
		e.OutputDir = dest
		return nil
	case client.ExporterOCI:
		if tar, err := strconv.ParseBool(e.Attrs["tar"]); err == nil && !tar {
			if dest == "" || dest == "-" {
				return errors.New("dest is required for oci output with tar=false")
			}
			e.OutputDir = dest
			return nil
		}
		return out.file(sh, e, dest)
	case client.ExporterTar:
		return out.file(sh, e, dest)
	case client.ExporterDocker:
		if dest == "" {
			return o.intoEngine(e, many, out)
		}
		return out.file(sh, e, dest)
	case client.ExporterImage:
		return o.intoEngine(e, many, out)
	}
	return fmt.Errorf("output type %q is not known: use image, registry, docker, oci, tar, local or cacheonly", e.Type)
}

// intoEngine makes e an image of the engine, pushed from there if asked. What
// is more than one image (several platforms, attestations) goes from the build
// straight to the registry, for the engine keeps only its own platform's; so do
// layers that are to be compressed in some way, for which a push has its own.
func (o *options) intoEngine(e *client.ExportEntry, many bool, out *outcome) error {
	push, err := boolean(e.Attrs, "push")
	if err != nil {
		return err
	}
	byDigest, err := boolean(e.Attrs, "push-by-digest")
	if err != nil {
		return err
	}
	if push && e.Attrs["name"] == "" {
		return errors.New("tag is needed when pushing to registry")
	}
	if push && (many || byDigest || e.Attrs["compression"] != "" || e.Attrs["compression-level"] != "") {
		e.Type = client.ExporterImage
		return nil
	}
	if push {
		out.push = append(out.push, strings.Split(e.Attrs["name"], ",")...)
		delete(e.Attrs, "push")
	}
	e.Type = engineImage
	if o.squash {
		e.Attrs["squash"] = "true"
	}
	return nil
}

func boolean(attrs map[string]string, key string) (bool, error) {
	v := attrs[key]
	if v == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("non-bool value %q specified for %s", v, key)
	}
	return b, nil
}

// familiar writes out what a tag leaves unsaid.
func familiar(tag string) string {
	named, err := reference.ParseNormalizedNamed(tag)
	if err != nil {
		return tag // check has refused it already
	}
	return reference.TagNameOnly(named).String()
}

// lateFile is created when the first byte arrives: a build that fails leaves
// no file behind, nor an old one truncated.
type lateFile struct {
	path string
	tmp  *os.File
}

// file sends e to a file, or to stdout when dest is - or missing.
func (out *outcome) file(sh *shell.Shell, e *client.ExportEntry, dest string) error {
	if dest == "" || dest == "-" {
		if sh.Out.IsTerminal() {
			return fmt.Errorf("dest file is required for %s exporter. refusing to write to console", e.Type)
		}
		e.Output = func(map[string]string) (io.WriteCloser, error) { return nopCloser{sh.Out}, nil }
		return nil
	}
	st, err := os.Stat(dest)
	if err == nil && st.IsDir() {
		return fmt.Errorf("destination file %q is a directory", dest)
	}
	if _, err := os.Stat(filepath.Dir(dest)); err != nil {
		return fmt.Errorf("destination file: %w", err)
	}
	f := &lateFile{path: dest}
	out.files = append(out.files, f)
	e.Output = func(map[string]string) (io.WriteCloser, error) {
		if err == nil && !st.Mode().IsRegular() {
			return os.OpenFile(dest, os.O_WRONLY, 0) // a pipe or a device
		}
		var err error
		if f.tmp, err = os.CreateTemp(filepath.Dir(dest), "."+filepath.Base(dest)+"-"); err != nil {
			return nil, err
		}
		return f.tmp, nil
	}
	return nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// finish puts written files in their place and pushes, after a build that
// succeeded.
func (out *outcome) finish(ctx context.Context, sh *shell.Shell, o *options) error {
	for _, f := range out.files {
		if f.tmp == nil {
			continue
		}
		if err := os.Chmod(f.tmp.Name(), 0o644); err != nil {
			return err
		}
		if err := os.Rename(f.tmp.Name(), f.path); err != nil {
			return err
		}
		f.tmp = nil
	}
	if len(out.push) == 0 {
		return nil
	}
	api, err := sh.API()
	if err != nil {
		return err
	}
	if err := sh.Negotiate(ctx); err != nil {
		return err
	}
	for _, name := range out.push {
		auth, err := sh.RegistryAuth(ctx, name)
		if err != nil {
			return err
		}
		r, err := api.ImagePush(ctx, name, mobyclient.ImagePushOptions{RegistryAuth: auth})
		if err != nil {
			return fmt.Errorf("failed to push %s: %w", name, err)
		}
		w := sh.Err.Raw()
		if o.quiet {
			w = io.Discard
		}
		err = jsonmessage.DisplayStream(r, w)
		r.Close()
		if err != nil {
			return fmt.Errorf("failed to push %s: %w", name, err)
		}
	}
	return nil
}

// discard removes half-written files of a build that failed.
func (out *outcome) discard() {
	for _, f := range out.files {
		if f.tmp != nil {
			f.tmp.Close()
			os.Remove(f.tmp.Name())
		}
	}
}

var annotationKind = regexp.MustCompile(`^([a-z-]+)(?:\[([A-Za-z0-9_/-]+)\])?$`)

// annotate sets --annotation [kind[platform],...:]key=value.
func (o *options) annotate(e *client.ExportEntry) error {
	for _, text := range o.annotations {
		k, v, ok := strings.Cut(text, "=")
		if !ok {
			return fmt.Errorf("invalid annotation %q, expected key=value", text)
		}
		kinds, key, ok := strings.Cut(k, ":")
		if !ok {
			kinds, key = "manifest", k
		}
		for kind := range strings.SplitSeq(kinds, ",") {
			m := annotationKind.FindStringSubmatch(kind)
			if m == nil {
				return fmt.Errorf("invalid annotation type %q, expected type and optional platform in square brackets", kind)
			}
			ak := exptypes.AnnotationKey{Type: m[1], Key: key}
			switch ak.Type {
			case exptypes.AnnotationIndex, exptypes.AnnotationIndexDescriptor, exptypes.AnnotationManifest, exptypes.AnnotationManifestDescriptor:
			default:
				return fmt.Errorf("unknown annotation type %q", ak.Type)
			}
			if m[2] != "" {
				p, err := platforms.Parse(m[2])
				if err != nil {
					return fmt.Errorf("invalid platform %q: %w", m[2], err)
				}
				ak.Platform = &p
			}
			e.Attrs[ak.String()] = v
		}
	}
	return nil
}

// attestations are --attest with its two shorthands; the last of a kind wins,
// and one that is disabled is not asked for.
func (o *options) attestations() (map[string]string, error) {
	texts := slices.Clone(o.attests)
	for kind, v := range map[string]string{"provenance": o.provenance, "sbom": o.sbom} {
		if v == "" {
			continue
		}
		if b, err := strconv.ParseBool(v); err == nil {
			v = fmt.Sprintf("disabled=%t", !b)
		}
		texts = append(texts, "type="+kind+","+v)
	}
	out := map[string]string{}
	for _, text := range texts {
		if !strings.Contains(text, "=") {
			text = "type=" + text
		}
		attrs, err := pairs("attestation", text)
		if err != nil {
			return nil, err
		}
		kind := attrs["type"]
		if kind == "" {
			return nil, errors.New("attestation type not specified")
		}
		off, err := boolean(attrs, "disabled")
		if err != nil {
			return nil, err
		}
		delete(attrs, "type")
		delete(attrs, "disabled")
		if off {
			delete(out, kind)
			continue
		}
		var fields []string
		for _, k := range slices.Sorted(maps.Keys(attrs)) {
			fields = append(fields, k+"="+attrs[k])
		}
		if out[kind], err = joinCSV(fields); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// cache sets where cache comes from and goes to.
func (o *options) cache(sh *shell.Shell, opt *client.SolveOpt) error {
	from, err := cacheEntries(o.cacheFrom)
	if err != nil {
		return err
	}
	to, err := cacheEntries(o.cacheTo)
	if err != nil {
		return err
	}
	if inline, err := strconv.ParseBool(opt.FrontendAttrs["build-arg:BUILDKIT_INLINE_CACHE"]); err == nil && inline {
		to = append(to, client.CacheOptionsEntry{Type: "inline", Attrs: map[string]string{}})
	}
	for i := range from {
		switch e := &from[i]; e.Type {
		case "inline":
			e.Type = "registry" // an image that carries its cache is read from its registry
		case "local": // which the first build of many does not find
			if _, err := os.Stat(filepath.Join(e.Attrs["src"], "index.json")); e.Attrs["src"] != "" && err != nil {
				fmt.Fprintf(sh.Err, "WARNING: local cache import at %s skipped: %v\n", e.Attrs["src"], err)
			}
		}
	}
	opt.CacheImports, opt.CacheExports = from, to
	return nil
}

func cacheEntries(in []string) ([]client.CacheOptionsEntry, error) {
	var out []client.CacheOptionsEntry
	for _, text := range in {
		if !strings.Contains(text, "=") {
			for ref := range strings.SplitSeq(text, ",") {
				out = append(out, client.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": ref}})
			}
			continue
		}
		attrs, err := pairs("cache", text)
		if err != nil {
			return nil, err
		}
		kind := attrs["type"]
		if kind == "" {
			return nil, fmt.Errorf("type required for %q", text)
		}
		delete(attrs, "type")
		out = append(out, client.CacheOptionsEntry{Type: kind, Attrs: attrs})
	}
	return out, nil
}
