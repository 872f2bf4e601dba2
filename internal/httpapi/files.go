package httpapi

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/cp"
)

// fileRoutes are those about the files of containers.
func fileRoutes(b *Backends) []route {
	h := fileHandlers{b}
	return []route{
		{method: get, path: "/containers/{name}/archive", handle: h.archive},
		{method: head, path: "/containers/{name}/archive", handle: h.stat},
		{method: put, path: "/containers/{name}/archive", handle: h.extract},
		{method: get, path: "/containers/{name}/changes", handle: h.changes},
		{method: get, path: "/containers/{name}/export", handle: h.export},
		{method: post, path: "/commit", handle: h.commit},
	}
}

type fileHandlers struct{ *Backends }

// statHeader carries what the path of an archive request is.
const statHeader = "X-Docker-Container-Path-Stat"

func (c *call) path() (string, error) {
	p := c.arg("path")
	if p == "" {
		return "", invalid("bad parameter: path cannot be empty")
	}
	return p, nil
}

func (c *call) setStat(st *container.PathStat) {
	data, _ := json.Marshal(st) // numbers, texts and a time: it cannot fail
	c.w.Header().Set(statHeader, base64.StdEncoding.EncodeToString(data))
}

func (h fileHandlers) stat(c *call) error {
	p, err := c.path()
	if err != nil {
		return err
	}
	st, err := h.Files.Stat(c.ctx(), c.name, p)
	if err == nil {
		c.setStat(st)
	}
	return err
}

func (h fileHandlers) archive(c *call) error {
	p, err := c.path()
	if err != nil {
		return err
	}
	return h.Files.Get(c.ctx(), c.name, p, func(st *container.PathStat) io.Writer {
		c.setStat(st)
		c.w.Header().Set("Content-Type", "application/x-tar")
		return c.w
	})
}

func (h fileHandlers) extract(c *call) error {
	p, err := c.path()
	if err != nil {
		return err
	}
	o := cp.PutOptions{NoOverwriteDirNonDir: c.flag("noOverwriteDirNonDir"), CopyUIDGID: c.flag("copyUIDGID")}
	err = h.Files.Put(c.ctx(), c.name, p, o, c.Body)
	if err != nil {
		// The docker CLI complains when it cannot send all of what is refused.
		_, _ = io.CopyN(io.Discard, c.Body, 256<<10)
	}
	return err
}

func (h fileHandlers) changes(c *call) error {
	list, err := h.Files.Changes(c.ctx(), c.name)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list)
}

func (h fileHandlers) export(c *call) error {
	return h.Files.Export(c.ctx(), c.name, func() io.Writer {
		c.w.Header().Set("Content-Type", "application/octet-stream")
		return c.w
	})
}

func (h fileHandlers) commit(c *call) error {
	name, err := tagOf(c.arg("repo"), c.arg("tag"))
	if err != nil {
		return err
	}
	o := cp.CommitOptions{
		Ref: name, Author: c.arg("author"), Comment: c.arg("comment"), Changes: c.query["changes"],
		// As dockerd since 1.13: without the parameter it is frozen.
		Pause: c.flag("pause") || !c.query.Has("pause"),
	}
	if ct := c.Header.Get("Content-Type"); c.ContentLength != 0 && strings.HasPrefix(ct, "application/json") {
		data, err := c.body()
		if err != nil {
			return err
		}
		if text := strings.TrimSpace(string(data)); text != "" && text != "null" {
			o.Config = &container.Config{}
			if err := decode(data, o.Config); err != nil {
				return err
			}
		}
	}
	id, err := h.Files.Commit(c.lasting(), c.arg("container"), o)
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, container.CommitResponse{ID: id.String()})
}
