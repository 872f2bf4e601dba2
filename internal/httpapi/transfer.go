package httpapi

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"

	"github.com/wherry-engine/wherry/internal/build/request"
	"github.com/wherry-engine/wherry/internal/httpapi/older"
	"github.com/wherry-engine/wherry/internal/transfer/fetch"
)

// transferHandlers are the routes that move whole images. Their answer is a
// stream of JSON objects; an error before the first one has a status, one
// after it comes as the last object.
type transferHandlers struct{ *Backends }

// progress is such a stream. Nothing is sent before the first message.
type progress struct{ c *call }

func (p progress) send(m jsonstream.Message) {
	more := older.Members{}
	if m.Error != nil {
		more["error"] = m.Error.Message // where clients before 1.48 look
	}
	if p.c.version.before(older.HadProgress) {
		if bar := older.Progress(m.Progress); bar != "" {
			more["progress"] = bar
		}
	}
	data, err := older.Marshal(older.With(m, more))
	if err != nil {
		return // a type of ours that cannot be written: there is none
	}
	p.c.w.Header().Set("Content-Type", "application/json")
	_, _ = p.c.w.Write(append(data, '\r', '\n')) // the work's context ends with the client
	p.c.w.flush()
}

func (p progress) end(err error) error {
	if err == nil || !p.c.w.begun {
		return err
	}
	p.send(jsonstream.Message{Error: streamError(err)})
	return nil
}

// streamError is an error as a stream tells it; that of a step of a build has
// the step's exit code, which becomes the client's.
func streamError(err error) *jsonstream.Error {
	out := &jsonstream.Error{Message: err.Error()}
	if step := (*request.StepError)(nil); errors.As(err, &step) {
		out.Code = step.Code
	}
	return out
}

func (h transferHandlers) load(c *call) error {
	want, err := c.platforms("platform", 48)
	if err != nil {
		return err
	}
	quiet := true
	if c.query.Has("quiet") {
		quiet = c.flag("quiet")
	}
	p := progress{c}
	err = h.Images.Load(c.ctx(), c.Body, quiet, want, p.send)
	if err != nil && !c.w.begun {
		// As dockerd: the errors of a load come in the stream.
		p.send(jsonstream.Message{Error: &jsonstream.Error{Message: err.Error()}})
		return nil
	}
	if err == nil && !c.w.begun {
		c.w.Header().Set("Content-Type", "application/json")
	}
	return p.end(err)
}

func (h transferHandlers) save(c *call) error {
	want, err := c.platforms("platform", 48)
	if err != nil {
		return err
	}
	names := c.query["names"]
	if c.name != "" {
		names = []string{c.name}
	}
	if len(names) == 0 {
		return invalid("no images to save")
	}
	c.w.Header().Set("Content-Type", "application/x-tar")
	return h.Images.Save(c.ctx(), names, want, c.w)
}

func (h transferHandlers) create(c *call) error {
	if c.arg("fromImage") != "" {
		return h.pull(c)
	}
	return h.importTar(c)
}

func (h transferHandlers) pull(c *call) error {
	ref, err := pullReference(c.arg("fromImage"), c.arg("tag"))
	if err != nil {
		return err
	}
	platform := ""
	if !c.version.before(32) {
		platform = c.arg("platform")
	}
	p := progress{c}
	if h.Puller != nil {
		return p.end(h.Puller.Pull(c.ctx(), ref, platform, c.Header.Get(registry.AuthHeader), p.send))
	}
	// Without a registry client an image that is here, or built in, is all there can be.
	if _, err := h.Images.Inspect(c.ctx(), ref, nil, false); err != nil {
		if errdefs.IsNotFound(err) {
			return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf(
				"cannot pull %s: registries are not served by this version of wherryd; bring images in with load or import", ref))
		}
		return err
	}
	p.send(jsonstream.Message{Status: "Status: Image is here, no registry was asked: " + ref})
	return nil
}

// pullReference joins name and tag; the tag may be a digest. A name alone stands
// for all tags.
func pullReference(name, tag string) (string, error) {
	named, err := reference.ParseNormalizedNamed(strings.TrimSuffix(name, ":"))
	if err != nil {
		return "", invalid(err.Error())
	}
	if tag != "" {
		if d, derr := digest.Parse(tag); derr == nil {
			named, err = reference.WithDigest(reference.TrimNamed(named), d)
		} else {
			named, err = reference.WithTag(named, tag)
		}
		if err != nil {
			return "", invalid(err.Error())
		}
	}
	if reference.FamiliarName(named) == "scratch" {
		return "", errdefs.ErrPermissionDenied.WithMessage("'scratch' is a reserved name")
	}
	return reference.FamiliarString(named), nil
}

// importTar makes an image of the tar that the body or an address holds.
func (h transferHandlers) importTar(c *call) error {
	src := c.arg("fromSrc")
	name, err := tagOf(c.arg("repo"), c.arg("tag"))
	if err != nil {
		return err
	}
	message := c.arg("message")
	if message == "" {
		message = "Imported from " + src
	}
	platform := ""
	if !c.version.before(32) {
		platform = c.arg("platform")
	}
	p := progress{c}
	tar := io.Reader(c.Body)
	if src != "-" {
		body, from, err := fetch.Open(c.ctx(), src)
		if err != nil {
			return err
		}
		defer body.Close()
		p.send(jsonstream.Message{Status: "Downloading from " + from})
		tar = body
	}
	id, err := h.Images.Import(c.ctx(), tar, name, message, c.query["changes"], platform)
	if err != nil {
		return p.end(err)
	}
	p.send(jsonstream.Message{Status: id.String()})
	return nil
}
