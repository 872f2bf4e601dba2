package image

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/containerd/platforms"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/client"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// tree shows each image with the platforms that it has here. DISK USAGE is
// what an image's blobs and layers take, SHARED SIZE the part of its layers
// that other images have too.
func (l *listFlags) tree(ctx context.Context, sh *shell.Shell, filters client.Filters) error {
	api, err := sh.API()
	if err != nil {
		return err
	}
	res, err := api.ImageList(ctx, client.ImageListOptions{All: l.all, Filters: filters, SharedSize: true, Manifests: true})
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(sh.Out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tID\tDISK USAGE\tCONTENT SIZE\tSHARED SIZE\tEXTRA")
	_, asked := filters["dangling"]
	for _, one := range res.Items {
		// As docker: what has no name is left out, unless it is asked for.
		if l.all || asked || len(one.RepoTags) > 0 {
			l.branch(w, one)
		}
	}
	return w.Flush()
}

func (l *listFlags) branch(w *tabwriter.Writer, one image.Summary) {
	size := func(n int64) string { return units.HumanSizeWithPrecision(float64(max(n, 0)), 3) }
	var content int64
	for _, m := range one.Manifests {
		content += m.Size.Content
	}
	extra := ""
	if one.Containers > 0 {
		extra = "U"
	}
	names := one.RepoTags
	if len(names) == 0 {
		names = []string{"<untagged>"}
	}
	for _, name := range names[1:] {
		fmt.Fprintln(w, name)
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", names[0], l.shown(one.ID), size(one.Size), size(content), size(one.SharedSize), extra)
	var below []image.ManifestSummary
	for _, m := range one.Manifests {
		if m.Kind == image.ManifestKindImage && m.ImageData != nil {
			below = append(below, m)
		}
	}
	for i, m := range below {
		bar := "├─ "
		if i == len(below)-1 {
			bar = "└─ "
		}
		extra := ""
		if len(m.ImageData.Containers) > 0 {
			extra = "U"
		}
		name := platforms.FormatAll(m.ImageData.Platform)
		if !m.Available {
			fmt.Fprintf(w, "%s%s\t%s\t\t\t\tnot here\n", bar, name, l.shown(m.ID))
			continue
		}
		fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\t\t%s\n", bar, name, l.shown(m.ID), size(m.Size.Total), size(m.Size.Content), extra)
	}
}

// shown is an id as the other columns' width allows.
func (l *listFlags) shown(id string) string {
	if l.noTrunc || len(id) < 19 {
		return id
	}
	return id[7:19]
}
