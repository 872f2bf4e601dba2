package query

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/logs"
	"github.com/wherry-engine/wherry/internal/logs/driver"
)

// LogsOptions are those of GET /containers/{id}/logs.
type LogsOptions struct {
	Stdout, Stderr, Follow, Timestamps, Details bool
	Since, Until                                time.Time
	Tail                                        string       // a number, or "all" or ""
	Idle                                        func() error // called when there is nothing more to write for now
}

const timestamp = "2006-01-02T15:04:05.000000000Z07:00"

// Logs writes what the container wrote. open is called once, after all checks;
// the writers may be the same. With Follow it returns when the container ends.
func (v *View) Logs(ctx context.Context, ref string, o LogsOptions, open func(tty bool) (stdout, stderr io.Writer)) error {
	if !o.Stdout && !o.Stderr {
		return errdefs.ErrInvalidArgument.WithMessage("Bad parameters: you must choose at least one stream")
	}
	c, err := v.store.Get(ref)
	if err != nil {
		return err
	}
	tail := -1
	if o.Tail != "" && o.Tail != "all" {
		if tail, err = strconv.Atoi(o.Tail); err != nil || tail < 0 {
			tail = -1 // dockerd takes what it cannot read for "all"
		}
	}
	r := c.Snapshot()
	files, ok := logFiles(&r, c.Dir())
	if !ok {
		return errdefs.ErrNotImplemented.WithMessage("configured logging driver does not support reading")
	}
	ro := logs.ReadOptions{Since: o.Since, Until: o.Until, Tail: tail, Idle: o.Idle}
	if o.Follow {
		done, giveUp := c.Wait(apicontainer.WaitConditionNextExit)
		defer giveUp()
		// Looked at only now: an end before this was not waited for.
		r = c.Snapshot()
		ro.Follow = r.State.Running
		if ro.Follow {
			ended := make(chan struct{})
			stop := context.AfterFunc(ctx, giveUp)
			defer stop()
			go func() {
				select {
				case <-done:
					close(ended)
				case <-ctx.Done():
				}
			}()
			ro.Done = ended
		}
	} else {
		c.FirstWords(ctx)
	}
	stdout, stderr := open(r.Config.Tty)
	err = logs.Read(ctx, files, ro, func(e logs.Entry) error {
		w, wanted := stdout, o.Stdout
		if e.Stream == logs.Stderr.String() {
			w, wanted = stderr, o.Stderr
		}
		if !wanted {
			return nil
		}
		line := e.Line
		if o.Details || o.Timestamps {
			var head strings.Builder
			if o.Timestamps {
				head.WriteString(e.Time.Format(timestamp))
				head.WriteByte(' ')
			}
			if o.Details {
				head.WriteString(details(e.Attrs))
				head.WriteByte(' ')
			}
			line = append([]byte(head.String()), line...)
		}
		_, err := w.Write(line)
		return err
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("read the log of %s: %w", r.ID, err)
	}
	return nil
}

// details prints the extra attributes as name=value, in order, escaped.
func details(attrs map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(attrs)) {
		out = append(out, url.QueryEscape(k)+"="+url.QueryEscape(attrs[k]))
	}
	return strings.Join(out, ",")
}

// logFiles tells where the log of a container is; ok is false if none can be read.
func logFiles(r *container.Record, dir string) (t logs.Target, ok bool) {
	cfg := driver.Config{Type: r.HostConfig.LogConfig.Type, Options: r.HostConfig.LogConfig.Config}
	if !cfg.Readable() {
		return t, false
	}
	t, err := driver.Files(cfg, dir, r.ID)
	return t, err == nil // the options were checked at creation
}
