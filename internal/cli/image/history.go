package image

import (
	"strconv"
	"strings"
	"time"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

// NewHistory is `history`.
func NewHistory(sh *shell.Shell) *cobra.Command {
	var human, quiet, noTrunc bool
	var format, platform string
	cmd := &cobra.Command{
		Use:         "history [OPTIONS] IMAGE",
		Short:       "Show the history of an image",
		Args:        shell.ExactArgs(1),
		Annotations: shell.Aliases("image history", "history"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var o []client.ImageHistoryOption
			if platform != "" {
				p, err := parsePlatforms(platform)
				if err != nil {
					return err
				}
				o = append(o, client.ImageHistoryWithPlatform(p[0]))
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			res, err := api.ImageHistory(cmd.Context(), args[0], o...)
			if err != nil {
				return err
			}
			return writeHistory(formatter.Context{
				Output: sh.Out, Format: historyFormat(format, quiet, human), Trunc: !noTrunc,
			}, human, res.Items)
		},
		ValidArgsFunction: shell.Complete(sh, 1, Names),
	}
	f := cmd.Flags()
	f.BoolVarP(&human, "human", "H", true, "Sizes and dates in human readable form")
	f.BoolVarP(&quiet, "quiet", "q", false, "Only show image IDs")
	f.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	f.StringVar(&format, "format", "", show.FormatHelp)
	f.StringVar(&platform, "platform", "", `Platform whose history to show, as "os[/arch[/variant]]" (e.g., "linux/amd64")`)
	return cmd
}

func historyFormat(source string, quiet, human bool) formatter.Format {
	created := "{{.CreatedSince}}"
	if !human {
		created = "{{.CreatedAt}}"
	}
	switch {
	case source != "" && source != formatter.TableFormatKey:
		return formatter.Format(source)
	case quiet:
		return formatter.DefaultQuietFormat
	}
	return formatter.Format("table {{.ID}}\t" + created + "\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}")
}

// layer is one row of history, as templates see it.
type layer struct {
	formatter.HeaderContext
	trunc, human bool
	h            image.HistoryResponseItem
}

func writeHistory(ctx formatter.Context, human bool, items []image.HistoryResponseItem) error {
	head := &layer{}
	head.Header = formatter.SubHeaderContext{
		"ID": "IMAGE", "CreatedSince": formatter.CreatedSinceHeader, "CreatedAt": formatter.CreatedAtHeader,
		"CreatedBy": "CREATED BY", "Size": formatter.SizeHeader, "Comment": "COMMENT",
	}
	return ctx.Write(head, func(row func(formatter.SubContext) error) error {
		for _, h := range items {
			if err := row(&layer{trunc: ctx.Trunc, human: human, h: h}); err != nil {
				return err
			}
		}
		return nil
	})
}

// MarshalJSON makes --format json show the columns.
func (l *layer) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(l) }

// ID is the image's id, or <missing> for a layer that came from elsewhere.
func (l *layer) ID() string {
	if l.trunc {
		return formatter.TruncateID(l.h.ID)
	}
	return l.h.ID
}

// CreatedAt is the time in RFC 3339.
func (l *layer) CreatedAt() string { return time.Unix(l.h.Created, 0).Format(time.RFC3339) }

// CreatedSince is the age in words; reproducible builds have none.
func (l *layer) CreatedSince() string {
	if !l.human {
		return l.CreatedAt()
	}
	at := time.Unix(l.h.Created, 0)
	if !at.After(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) {
		return "N/A"
	}
	return units.HumanDuration(time.Since(at)) + " ago"
}

// CreatedBy is the instruction that made the layer.
func (l *layer) CreatedBy() string {
	s := strings.ReplaceAll(l.h.CreatedBy, "\t", " ")
	if l.trunc {
		return formatter.Ellipsis(s, 45)
	}
	return s
}

// Size of the layer.
func (l *layer) Size() string {
	if l.human {
		return units.HumanSizeWithPrecision(float64(l.h.Size), 3)
	}
	return strconv.FormatInt(l.h.Size, 10)
}

// Comment of the builder.
func (l *layer) Comment() string { return l.h.Comment }
