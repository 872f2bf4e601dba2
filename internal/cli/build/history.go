package build

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/templates"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// record is a build that was or is, as the engine remembers it; its fields
// are those of templates and of --format json.
type record struct {
	Ref            string
	Name           string
	Status         string
	CreatedAt      time.Time
	CompletedAt    *time.Time `json:",omitempty"`
	TotalSteps     int32
	CompletedSteps int32
	CachedSteps    int32
	Warnings       int32             `json:",omitempty"`
	Error          string            `json:",omitempty"`
	Context        string            `json:",omitempty"`
	Dockerfile     string            `json:",omitempty"`
	Target         string            `json:",omitempty"`
	BuildArgs      map[string]string `json:",omitempty"`
	Labels         map[string]string `json:",omitempty"`
	Outputs        []string          `json:",omitempty"`
	Images         []string          `json:",omitempty"`
	Digest         string            `json:",omitempty"`
	Attachments    []attachment      `json:",omitempty"` // of one that is inspected

	raw *control.BuildHistoryRecord
}

// Duration is how long it took, or has taken so far.
func (r record) Duration() time.Duration {
	if r.CompletedAt != nil {
		return r.CompletedAt.Sub(r.CreatedAt)
	}
	return time.Since(r.CreatedAt)
}

func newHistory(sh *shell.Shell) *cobra.Command {
	g := &cobra.Command{
		Use: "history", Short: "Commands to work on build records", Args: shell.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(cmd.ErrOrStderr())
			return cmd.Help()
		},
	}
	for _, c := range []*cobra.Command{newHistoryList(sh), newHistoryInspect(sh), newHistoryLogs(sh), newHistoryRemove(sh)} {
		c.DisableFlagsInUseLine = true
		g.AddCommand(c)
	}
	for name := range elsewhere {
		g.AddCommand(newElsewhere(sh, "builder history", name, elsewhere[name]))
	}
	return g
}

func newHistoryList(sh *shell.Shell) *cobra.Command {
	var format string
	var noTrunc bool
	var filters []string
	cmd := &cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List build records", Args: shell.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return failed(sh, "failed to list the history", withEngine(cmd.Context(), sh, func(ctx context.Context, e *engine) error {
				list, err := e.records(ctx, "", filters)
				if err != nil {
					return err
				}
				if format != "table" && format != "" {
					return each(sh.Out, format, list)
				}
				w := table(sh.Out)
				fmt.Fprintln(w, "BUILD ID\tNAME\tSTATUS\tCREATED AT\tDURATION")
				for _, r := range list {
					name := r.Name
					if len(name) > maxName && !noTrunc {
						name = ".." + name[len(name)-maxName+2:]
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Ref, name, r.Status, ago(r.CreatedAt), seconds(r))
				}
				return w.Flush()
			}))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringVar(&format, "format", "table", `Format the output ("table", "json" or a Go template)`)
	f.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	f.StringArrayVar(&filters, "filter", nil, `Provide filter values (e.g., "status=error")`)
	return cmd
}

const maxName = 36

func seconds(r record) string {
	d := r.Duration()
	text := fmt.Sprintf("%.1fs", d.Seconds())
	if d >= time.Minute {
		text = fmt.Sprintf("%dm %2ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	if r.CompletedAt == nil {
		text += "+"
	}
	return text
}

func newHistoryInspect(sh *shell.Shell) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "inspect [OPTIONS] [REF]", Short: "Inspect a build record", Args: shell.MaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return failed(sh, "failed to inspect the build", withEngine(cmd.Context(), sh, func(ctx context.Context, e *engine) error {
				r, err := e.record(ctx, args)
				if err != nil {
					return err
				}
				r.Attachments = e.attachments(ctx, r.raw)
				if format != "pretty" && format != "" {
					return each(sh.Out, format, []record{r})
				}
				return pretty(sh.Out, r)
			}))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&format, "format", "pretty", `Format the output ("pretty", "json" or a Go template)`)
	a := newAttachment(sh)
	a.DisableFlagsInUseLine = true
	cmd.AddCommand(a)
	return cmd
}

func pretty(out io.Writer, r record) error {
	w := table(out)
	line := func(k string, v any) {
		if v != "" {
			fmt.Fprintf(w, "%s:\t%v\n", k, v)
		}
	}
	line("Name", r.Name)
	line("Build ID", r.Ref)
	line("Context", r.Context)
	line("Dockerfile", r.Dockerfile)
	line("Target", r.Target)
	fmt.Fprintln(w)
	line("Started", r.CreatedAt.Local().Format(time.DateTime))
	line("Duration", seconds(r))
	line("Build Steps", fmt.Sprintf("%d/%d (%.0f%% cached)", r.CompletedSteps, r.TotalSteps, 100*float64(r.CachedSteps)/float64(max(r.TotalSteps, 1))))
	line("Status", r.Status)
	if r.Warnings > 0 {
		line("Warnings", r.Warnings)
	}
	line("Error", r.Error)
	for _, set := range []struct {
		title string
		m     map[string]string
	}{{"Build Arg", r.BuildArgs}, {"Label", r.Labels}} {
		for _, k := range slices.Sorted(maps.Keys(set.m)) {
			line(set.title, k+"="+set.m[k])
		}
	}
	for _, o := range r.Outputs {
		line("Output", o)
	}
	for _, n := range r.Images {
		line("Image", n)
	}
	line("Digest", r.Digest)
	if len(r.Attachments) > 0 {
		fmt.Fprintln(w, "\nDIGEST\tPLATFORM\tTYPE")
	}
	for _, a := range r.Attachments {
		fmt.Fprintf(w, "%s\t%s\t%s\n", a.Digest, a.Platform, a.Type)
	}
	return w.Flush()
}

func newHistoryLogs(sh *shell.Shell) *cobra.Command {
	var mode string
	cmd := &cobra.Command{
		Use: "logs [OPTIONS] [REF]", Short: "Print the logs of a build record", Args: shell.MaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return failed(sh, "failed to read the logs", withEngine(cmd.Context(), sh, func(ctx context.Context, e *engine) error {
				r, err := e.record(ctx, args)
				if err != nil {
					return err
				}
				stream, err := e.kit.ControlClient().Status(ctx, &control.StatusRequest{Ref: r.Ref})
				if err != nil {
					return err
				}
				show, err := progressui.NewDisplay(sh.Err.Raw(), progressui.DisplayMode(mode))
				if err != nil {
					return err
				}
				ch := make(chan *client.SolveStatus)
				received := make(chan error, 1)
				go func() {
					defer close(ch)
					for {
						s, err := stream.Recv()
						if err != nil {
							if errors.Is(err, io.EOF) {
								err = nil
							}
							received <- err
							return
						}
						ch <- client.NewSolveStatus(s)
					}
				}()
				if _, err := show.UpdateFrom(context.WithoutCancel(ctx), ch); err != nil {
					return err
				}
				return <-received
			}))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&mode, "progress", "plain", "Set type of progress output (plain, rawjson, tty)")
	complete(cmd, "progress", "plain", "rawjson", "tty")
	return cmd
}

func newHistoryRemove(sh *shell.Shell) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "rm [OPTIONS] [REF...]", Short: "Remove build records",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && !all:
				return errors.New("rm requires at least one argument")
			case len(args) > 0 && all:
				return errors.New("rm requires either --all or at least one argument")
			}
			return failed(sh, "failed to remove", withEngine(cmd.Context(), sh, func(ctx context.Context, e *engine) error {
				refs := args
				if all {
					list, err := e.records(ctx, "", nil)
					if err != nil {
						return err
					}
					for _, r := range list {
						if r.CompletedAt != nil {
							refs = append(refs, r.Ref)
						}
					}
				}
				return shell.Each(refs, func(ref string) error {
					if !all {
						r, err := e.record(ctx, []string{ref})
						if err != nil {
							return err
						}
						ref = r.Ref
					}
					_, err := e.kit.ControlClient().UpdateBuildHistory(ctx, &control.UpdateBuildHistoryRequest{Ref: ref, Delete: true})
					return err
				})
			}))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&all, "all", false, "Remove all build records")
	return cmd
}

func withEngine(ctx context.Context, sh *shell.Shell, do func(context.Context, *engine) error) error {
	e, err := connect(ctx, sh)
	if err != nil {
		return err
	}
	return do(ctx, e)
}

// record finds one build: by its id or the beginning of it, by ^n (the n-th
// before the last), the last one without an argument.
func (e *engine) record(ctx context.Context, args []string) (record, error) {
	list, err := e.records(ctx, "", nil)
	if err != nil {
		return record{}, err
	}
	n, ref := 0, ""
	if len(args) > 0 {
		ref = args[0]
		if i := strings.LastIndexByte(ref, '/'); i >= 0 {
			ref = ref[i+1:] // builder/node/ref, as metadata files have it
		}
		if _, err := fmt.Sscanf(ref, "^%d", &n); err == nil {
			ref = ""
		}
	}
	if ref == "" {
		if n < 0 || n >= len(list) {
			return record{}, errors.New("no records found")
		}
		return list[n], nil
	}
	var found []record
	for _, r := range list {
		if r.Ref == ref {
			return r, nil
		}
		if strings.HasPrefix(r.Ref, ref) {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 0:
		return record{}, fmt.Errorf("no record found for ref %q", ref)
	case 1:
		return found[0], nil
	}
	return record{}, fmt.Errorf("%d records begin with %q", len(found), ref)
}

// records lists builds, those that run first, then the youngest first.
func (e *engine) records(ctx context.Context, ref string, filters []string) ([]record, error) {
	req := &control.BuildHistoryRequest{EarlyExit: true, Ref: ref}
	if len(filters) > 0 {
		var terms []string
		for _, f := range filters {
			term, err := historyFilter(f)
			if err != nil {
				return nil, err
			}
			terms = append(terms, term)
		}
		text, err := joinCSV(terms)
		if err != nil {
			return nil, err
		}
		req.Filter = []string{text}
	}
	stream, err := e.kit.ControlClient().ListenBuildHistory(ctx, req)
	if err != nil {
		return nil, err
	}
	var out []record
	for {
		ev, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if ev.Type != control.BuildHistoryEventType_DELETED && ev.Record != nil {
			out = append(out, newRecord(ev.Record))
		}
	}
	slices.SortFunc(out, func(a, b record) int {
		if (a.CompletedAt == nil) != (b.CompletedAt == nil) {
			if a.CompletedAt == nil {
				return -1
			}
			return 1
		}
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.Ref, b.Ref))
	})
	return out, nil
}

// historyFilter writes a filter as the engine reads it.
func historyFilter(f string) (string, error) {
	i := strings.IndexAny(f, "!<>=")
	if i < 1 || f[i:] == "!" || f[i] == '!' && f[i+1] != '=' {
		return "", fmt.Errorf("invalid filter %q: want name=value", f)
	}
	key, sep := f[:i], f[i:i+1]
	if sep != "=" && i+1 < len(f) && f[i+1] == '=' {
		sep += "="
	}
	value := f[i+len(sep):]
	switch equals := sep == "=" || sep == "!="; key {
	case "ref", "repository", "status":
		if !equals {
			return "", fmt.Errorf("invalid separator for %q, expected = or !=", f)
		}
		if sep == "=" {
			sep = "~="
			if key == "status" {
				sep = "=="
			}
		}
	case "startedAt", "completedAt", "duration":
		if equals {
			return "", fmt.Errorf("invalid separator for %q, expected <=, <, >= or >", f)
		}
	default:
		return "", fmt.Errorf("unsupported filter %q: want ref, repository, status, startedAt, completedAt or duration", f)
	}
	return key + sep + value, nil
}

func newRecord(h *control.BuildHistoryRecord) record {
	a := h.FrontendAttrs
	r := record{
		raw: h, Ref: h.Ref, Status: "Running", CreatedAt: h.CreatedAt.AsTime(), Target: a["target"],
		TotalSteps: h.NumTotalSteps, CompletedSteps: h.NumCompletedSteps, CachedSteps: h.NumCachedSteps, Warnings: h.NumWarnings,
		Context: cmp.Or(a["context"], a["vcs:localdir:context"]), Dockerfile: cmp.Or(a["filename"], dockerfile),
		Digest:    cmp.Or(h.ExporterResponse["containerimage.config.digest"], h.ExporterResponse["containerimage.digest"]),
		BuildArgs: map[string]string{}, Labels: map[string]string{},
	}
	if h.CompletedAt != nil {
		t := h.CompletedAt.AsTime()
		r.CompletedAt, r.Status = &t, "Completed"
	}
	if h.Error != nil {
		r.Status, r.Error = "Error", h.Error.Message
		if h.Error.Code == 1 { // canceled
			r.Status = "Canceled"
		}
	}
	for k, v := range a {
		if name, ok := strings.CutPrefix(k, "build-arg:"); ok {
			r.BuildArgs[name] = v
		}
		if name, ok := strings.CutPrefix(k, "label:"); ok {
			r.Labels[name] = v
		}
	}
	for _, e := range h.Exporters {
		r.Outputs = append(r.Outputs, e.Type)
	}
	if names := h.ExporterResponse["image.name"]; names != "" {
		r.Images = strings.Split(names, ",")
	}
	r.Name = r.Context
	if r.Dockerfile != dockerfile {
		r.Name = strings.TrimPrefix(r.Name+"/"+r.Dockerfile, "/")
	}
	if r.Target != "" {
		r.Name += " (" + r.Target + ")"
	}
	r.Name = strings.TrimSpace(r.Name)
	return r
}

// each prints items as JSON lines or by a template.
func each[T any](w io.Writer, format string, items []T) error {
	if format == "json" || format == "{{json .}}" {
		enc := json.NewEncoder(w)
		for _, i := range items {
			if err := enc.Encode(i); err != nil {
				return err
			}
		}
		return nil
	}
	t, err := templates.Parse(format)
	if err != nil {
		return fmt.Errorf("template parsing error: %w", err)
	}
	for _, i := range items {
		if err := t.Execute(w, i); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	return nil
}
