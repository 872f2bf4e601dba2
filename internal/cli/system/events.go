package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/docker/cli/opts"
	"github.com/docker/cli/templates"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

// nanoFixed keeps the columns of a stream of events aligned.
const nanoFixed = "2006-01-02T15:04:05.000000000Z07:00"

// NewEvents is `events`.
func NewEvents(sh *shell.Shell) *cobra.Command {
	var since, until, format string
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{
		Use:         "events [OPTIONS]",
		Short:       "Get real time events from the server",
		Args:        shell.NoArgs,
		Annotations: shell.Aliases("system events", "events"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			tmpl, err := eventTemplate(format)
			if err != nil {
				return &shell.StatusError{Code: 64, Message: "Error parsing format: " + err.Error()}
			}
			return watch(cmd.Context(), sh, tmpl, client.EventsListOptions{Since: since, Until: until, Filters: filter.Value()})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringVar(&since, "since", "", "Also events since a time, before now")
	f.StringVar(&until, "until", "", "Stop at this time")
	f.VarP(&filter, "filter", "f", "Conditions that the events must meet")
	f.StringVar(&format, "format", "", show.InspectHelp)
	return cmd
}

// eventTemplate tries the template on an empty event, so that a bad field
// name is told before the first event.
func eventTemplate(format string) (*template.Template, error) {
	switch format {
	case "":
		return nil, nil
	case "json":
		format = "{{json .}}"
	}
	t, err := templates.Parse(format)
	if err != nil {
		return nil, err
	}
	return t, t.Execute(io.Discard, &events.Message{})
}

func watch(ctx context.Context, sh *shell.Shell, tmpl *template.Template, o client.EventsListOptions) error {
	api, err := sh.API()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := api.Events(ctx, o)
	for {
		select {
		case e := <-r.Messages:
			if err := printEvent(sh.Out, tmpl, &e); err != nil {
				return err
			}
		case err := <-r.Err:
			if errors.Is(err, io.EOF) {
				return nil
			}
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
	}
}

func printEvent(w io.Writer, tmpl *template.Template, e *events.Message) error {
	if tmpl != nil {
		if err := tmpl.Execute(w, e); err != nil {
			return err
		}
		_, err := fmt.Fprintln(w)
		return err
	}
	var b strings.Builder
	switch {
	case e.TimeNano != 0:
		b.WriteString(time.Unix(0, e.TimeNano).Format(nanoFixed) + " ")
	case e.Time != 0:
		b.WriteString(time.Unix(e.Time, 0).Format(nanoFixed) + " ")
	}
	fmt.Fprintf(&b, "%s %s %s", e.Type, e.Action, e.Actor.ID)
	if len(e.Actor.Attributes) > 0 {
		var attrs []string
		for _, k := range slices.Sorted(maps.Keys(e.Actor.Attributes)) {
			attrs = append(attrs, k+"="+e.Actor.Attributes[k])
		}
		b.WriteString(" (" + strings.Join(attrs, ", ") + ")")
	}
	_, err := fmt.Fprintln(w, b.String())
	return err
}
