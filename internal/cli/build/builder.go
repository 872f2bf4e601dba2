package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/moby/buildkit/client"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewBuilder is the group under a name: builder, or buildx for who is used to it.
func NewBuilder(sh *shell.Shell, name string) *cobra.Command {
	g := &cobra.Command{
		Use: name, Short: "Manage builds", Args: shell.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(cmd.ErrOrStderr())
			return cmd.Help()
		},
	}
	for _, c := range []*cobra.Command{NewBuild(sh), newPrune(sh), newUsage(sh), newHistory(sh)} {
		c.DisableFlagsInUseLine = true
		g.AddCommand(c)
	}
	if name == "buildx" {
		for verb, why := range builders {
			g.AddCommand(newElsewhere(sh, name, verb, why))
		}
	}
	return g
}

// newPrune is `builder prune`.
func newPrune(sh *shell.Shell) *cobra.Command {
	var all, force, verbose bool
	var reserved, most, free opts.MemBytes
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove build cache",
		Args:  shell.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keep, filters, err := cacheFilters(filter.Value())
			if err != nil {
				return err
			}
			if !force {
				what := "all dangling build cache"
				if all {
					what = "all build cache"
				}
				ok, err := sh.Confirm(cmd.Context(), "WARNING! This will remove "+what+". Are you sure you want to continue?")
				if err != nil || !ok {
					return err
				}
			}
			po := []client.PruneOption{client.WithKeepOpt(keep, reserved.Value(), most.Value(), free.Value()), client.WithFilter(filters)}
			if all {
				po = append(po, client.PruneAll)
			}
			return failed(sh, "failed to prune", prune(cmd.Context(), sh, verbose, po))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Include internal/frontend images")
	f.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	f.BoolVar(&verbose, "verbose", false, "Provide a more verbose output")
	f.Var(&filter, "filter", `Provide filter values (e.g., "until=24h")`)
	f.Var(&reserved, "reserved-space", "Amount of disk space always allowed to keep for cache")
	f.Var(&most, "max-used-space", "Maximum amount of disk space allowed to keep for cache")
	f.Var(&free, "min-free-space", "Target amount of free disk space after pruning")
	f.Var(&reserved, "keep-storage", "Amount of disk space to keep for cache")
	_ = f.MarkDeprecated("keep-storage", "keep-storage flag has been changed to reserved-space")
	return cmd
}

func prune(ctx context.Context, sh *shell.Shell, verbose bool, po []client.PruneOption) error {
	e, err := connect(ctx, sh)
	if err != nil {
		return err
	}
	ch := make(chan client.UsageInfo)
	done := make(chan error, 1)
	go func() {
		err := e.kit.Prune(ctx, ch, po...)
		close(ch)
		done <- err
	}()
	w := table(sh.Out)
	total, rows := int64(0), 0
	for u := range ch {
		total += u.Size
		if verbose {
			describe(w, &u)
		} else {
			if rows == 0 {
				fmt.Fprintln(w, usageHeader())
			}
			fmt.Fprintln(w, usageRow(&u))
		}
		rows++
		w.Flush()
	}
	if err := <-done; err != nil {
		return err
	}
	fmt.Fprintf(w, "Total:\t%s\n", units.HumanSize(float64(total)))
	return w.Flush()
}

// newUsage is `builder du`.
func newUsage(sh *shell.Shell) *cobra.Command {
	var verbose bool
	var format string
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{
		Use:   "du [OPTIONS]",
		Short: "Disk usage",
		Args:  shell.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "" && verbose {
				return errors.New("--format and --verbose cannot be used together")
			}
			keep, filters, err := cacheFilters(filter.Value())
			if err != nil {
				return err
			}
			return failed(sh, "failed to get the disk usage", usage(cmd.Context(), sh, format, verbose, client.WithFilter(filters), client.WithAgeLimit(keep)))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.Var(&filter, "filter", `Provide filter values (e.g., "until=24h")`)
	f.StringVar(&format, "format", "", `Format the output ("table", "pretty", "json" or a Go template)`)
	f.BoolVar(&verbose, "verbose", false, `Shorthand for "--format=pretty"`)
	return cmd
}

func usage(ctx context.Context, sh *shell.Shell, format string, verbose bool, uo ...client.DiskUsageOption) error {
	e, err := connect(ctx, sh)
	if err != nil {
		return err
	}
	list, err := e.kit.DiskUsage(ctx, uo...)
	if err != nil {
		return err
	}
	slices.SortStableFunc(list, func(a, b *client.UsageInfo) int { return cmp.Compare(b.Size, a.Size) })
	if format != "" && format != "table" && format != "pretty" {
		return each(sh.Out, format, list)
	}
	w := table(sh.Out)
	if verbose || format == "pretty" {
		for _, u := range list {
			describe(w, u)
		}
		return summarize(w, list)
	}
	fmt.Fprintln(w, usageHeader())
	for _, u := range list {
		fmt.Fprintln(w, usageRow(u))
	}
	return summarize(w, list)
}

func table(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 1, 8, 3, ' ', 0) }

// usageFormat has fixed widths: rows are shown as they come.
const usageFormat = "%-28s %-12v %-11s %s"

func usageHeader() string {
	return fmt.Sprintf(usageFormat, "ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED")
}

func usageRow(u *client.UsageInfo) string {
	id, size, last := u.ID, units.HumanSize(float64(u.Size)), ""
	if u.Mutable {
		id += "*"
	}
	if u.Shared {
		size += "*"
	}
	if u.LastUsedAt != nil {
		last = ago(*u.LastUsedAt)
	}
	return strings.TrimRight(fmt.Sprintf(usageFormat, id, !u.InUse, size, last), " ")
}

func ago(t time.Time) string { return units.HumanDuration(time.Since(t)) + " ago" }

func describe(w io.Writer, u *client.UsageInfo) {
	line := func(k string, v any) { fmt.Fprintf(w, "%s:\t%v\n", k, v) }
	line("ID", u.ID)
	if len(u.Parents) > 0 {
		line("Parent", strings.Join(u.Parents, ","))
	}
	line("Created at", u.CreatedAt)
	line("Mutable", u.Mutable)
	line("Reclaimable", !u.InUse)
	line("Shared", u.Shared)
	line("Size", units.HumanSize(float64(u.Size)))
	if u.Description != "" {
		line("Description", u.Description)
	}
	line("Usage count", u.UsageCount)
	if u.LastUsedAt != nil {
		line("Last used", ago(*u.LastUsedAt))
	}
	if u.RecordType != "" {
		line("Type", u.RecordType)
	}
	fmt.Fprintln(w)
}

func summarize(w *tabwriter.Writer, list []*client.UsageInfo) error {
	var total, free, shared, private int64
	for _, u := range list {
		total += u.Size
		if !u.InUse {
			free += u.Size
		}
		if u.Shared {
			shared += u.Size
		} else {
			private += u.Size
		}
	}
	size := func(k string, n int64) { fmt.Fprintf(w, "%s:\t%s\n", k, units.HumanSize(float64(n))) }
	if shared > 0 {
		size("Shared", shared)
		size("Private", private)
	}
	size("Reclaimable", free)
	size("Total", total)
	return w.Flush()
}

// cacheKeys are what records of the cache can be chosen by.
var cacheKeys = []string{"id", "parents", "type", "description", "inuse", "mutable", "immutable", "shared", "private", "until", "unused-for"}

// cacheFilters splits filters into an age and BuildKit's own form of the rest.
func cacheFilters(filters mobyclient.Filters) (age time.Duration, rest []string, err error) {
	var terms []string
	for key, values := range filters {
		if name := strings.TrimRight(key, "!~"); !slices.Contains(cacheKeys, name) {
			return 0, nil, fmt.Errorf("invalid filter '%s': want %s", key, strings.Join(cacheKeys, ", "))
		}
		var list []string
		for v := range values {
			list = append(list, v)
		}
		if len(list) > 1 {
			return 0, nil, fmt.Errorf("%q filter expects only one value", key)
		}
		switch {
		case key == "until" || key == "unused-for":
			if age != 0 {
				return 0, nil, errors.New(`conflicting filters "until" and "unused-for"`)
			}
			if age, err = time.ParseDuration(list[0]); err != nil {
				return 0, nil, fmt.Errorf("%q filter expects a duration (e.g., '24h'): %w", key, err)
			}
		case len(list) == 0:
			terms = append(terms, key)
		case key == "id":
			terms = append(terms, "id~="+list[0])
		case strings.HasSuffix(key, "!"), strings.HasSuffix(key, "~"):
			terms = append(terms, key+"="+list[0])
		default:
			terms = append(terms, key+"=="+list[0])
		}
	}
	slices.Sort(terms)
	return age, []string{strings.Join(terms, ",")}, nil
}
