package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

const (
	// statsRedraw is how often the table on the screen is drawn again.
	statsRedraw = 500 * time.Millisecond
	// statsStale is how long a value is shown without news of it.
	statsStale = 2 * time.Second
)

type statsFlags struct {
	all, noStream, noTrunc bool
	format                 string
}

// NewStats is `stats`.
func NewStats(sh *shell.Shell) *cobra.Command {
	var s statsFlags
	cmd := &cobra.Command{
		Use:         "stats [OPTIONS] [CONTAINER...]",
		Short:       "Display a live stream of container(s) resource usage statistics",
		Args:        cobra.ArbitraryArgs,
		Annotations: shell.Aliases("container stats", "stats"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd.Context(), sh, args)
		},
		ValidArgsFunction: shell.Complete(sh, 0, running),
	}
	f := cmd.Flags()
	f.BoolVarP(&s.all, "all", "a", false, "Show all containers (default: only running ones)")
	f.BoolVar(&s.noStream, "no-stream", false, "Show one result and end")
	f.BoolVar(&s.noTrunc, "no-trunc", false, "Do not truncate output")
	f.StringVar(&s.format, "format", "", show.FormatHelp)
	return cmd
}

// board is the set of containers that are watched, in the order they came.
type board struct {
	api    client.APIClient
	stream bool

	mu    sync.Mutex
	rows  []*gauge
	first sync.WaitGroup // until each has a first value or an error
}

// gauge is the last sample of one container.
type gauge struct {
	name   string // as asked for
	last   *container.StatsResponse
	at     time.Time
	err    error
	cancel context.CancelFunc
}

func (b *board) add(ctx context.Context, name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if slices.ContainsFunc(b.rows, func(g *gauge) bool { return g.name == name }) {
		return
	}
	ctx, cancel := context.WithCancelCause(ctx)
	g := &gauge{name: name, cancel: func() { cancel(errGone) }}
	b.rows = append(b.rows, g)
	b.first.Add(1)
	go b.collect(ctx, g)
}

// errGone ends the reading of a row that is taken off the board.
var errGone = errors.New("the container is gone")

func (b *board) remove(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rows = slices.DeleteFunc(b.rows, func(g *gauge) bool {
		if g.name == name {
			g.cancel()
		}
		return g.name == name
	})
}

func (b *board) collect(ctx context.Context, g *gauge) {
	seen := sync.OnceFunc(b.first.Done)
	defer seen()
	fail := func(err error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		g.err = err
	}
	r, err := b.api.ContainerStats(ctx, g.name, client.ContainerStatsOptions{Stream: b.stream, IncludePreviousSample: !b.stream})
	if err != nil {
		fail(err)
		return
	}
	defer r.Body.Close()
	for dec := json.NewDecoder(r.Body); ; {
		var v container.StatsResponse
		if err := dec.Decode(&v); err != nil {
			if b.stream || !errors.Is(err, io.EOF) {
				fail(err)
			}
			return
		}
		b.mu.Lock()
		g.last, g.at = &v, time.Now()
		b.mu.Unlock()
		seen()
		if !b.stream {
			return
		}
	}
}

// gone drops containers whose stream ended, and returns the errors of those
// that never had one.
func (b *board) gone() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	b.rows = slices.DeleteFunc(b.rows, func(g *gauge) bool {
		if g.err != nil && g.last == nil {
			errs = append(errs, g.err)
		}
		return g.err != nil
	})
	return errors.Join(errs...)
}

func (s *statsFlags) run(ctx context.Context, sh *shell.Shell, names []string) error {
	api, err := sh.API()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	b := &board{api: api, stream: !s.noStream}
	var news client.EventsResult
	if len(names) == 0 {
		if !s.noStream {
			// Subscribed before the list is taken, so that none is missed.
			news = api.Events(ctx, client.EventsListOptions{Filters: client.Filters{}.Add("type", string(events.ContainerEventType))})
		}
		res, err := api.ContainerList(ctx, client.ContainerListOptions{All: s.all})
		if err != nil {
			return err
		}
		for _, c := range res.Items {
			b.add(ctx, c.ID)
		}
	}
	for _, n := range names {
		b.add(ctx, n)
	}
	b.first.Wait()
	if err := b.gone(); err != nil && len(names) > 0 {
		return err
	}
	if s.noStream {
		return s.draw(sh.Out, b)
	}
	tick := time.NewTicker(statsRedraw)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-news.Err:
			return err
		case e := <-news.Messages:
			s.follow(ctx, b, e)
		case <-tick.C:
			_ = b.gone() // a container that ended is no error of ours
			if len(names) > 0 && b.empty() {
				_, err := io.WriteString(sh.Out, "\033[H\033[J")
				return err
			}
			var text bytes.Buffer
			if err := s.draw(&text, b); err != nil {
				return err
			}
			// One write per frame, each line cleared to its end: no flicker.
			frame := "\033[H" + strings.ReplaceAll(text.String(), "\n", "\033[K\n") + "\033[J"
			if _, err := io.WriteString(sh.Out, frame); err != nil {
				return err
			}
		}
	}
}

func (b *board) empty() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.rows) == 0
}

func (s *statsFlags) follow(ctx context.Context, b *board, e events.Message) {
	switch e.Action {
	case events.ActionStart:
		b.add(ctx, e.Actor.ID)
	case events.ActionCreate:
		if s.all {
			b.add(ctx, e.Actor.ID)
		}
	case events.ActionDie:
		if !s.all {
			b.remove(e.Actor.ID)
		}
	case events.ActionDestroy:
		b.remove(e.Actor.ID)
	}
}

func (s *statsFlags) draw(w io.Writer, b *board) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	format := formatter.Format(s.format)
	if s.format == "" || s.format == formatter.TableFormatKey {
		format = "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}"
	}
	c := formatter.Context{Output: w, Format: format, Trunc: !s.noTrunc}
	return c.Write(newUsageHeader(), func(write func(formatter.SubContext) error) error {
		for _, g := range b.rows {
			u := &usage{asked: g.name, trunc: c.Trunc, v: g.last}
			u.stale = g.last == nil || b.stream && time.Since(g.at) > statsStale
			if err := write(u); err != nil {
				return err
			}
		}
		return nil
	})
}
