package transfer

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"
)

// Bounds on lists that a registry sends in pages.
const (
	maxPage  = 8 << 20
	maxPages = 1000
	maxTags  = 100_000
)

// tags lists the repository's tags in the registry's order.
func (r *remote) tags(ctx context.Context) ([]string, error) {
	var out []string
	err := r.pages(ctx, r.url("tags", "list"), func(b []byte) error {
		var page struct{ Tags []string }
		if err := json.Unmarshal(b, &page); err != nil {
			return invalid("tags of %s: %v", r.repo, err)
		}
		if out = append(out, page.Tags...); len(out) > maxTags {
			return invalid("registry %s: %s has more than %d tags", r.base.Host, r.repo, maxTags)
		}
		return nil
	})
	return out, err
}

// pages reads a list to its end.
func (r *remote) pages(ctx context.Context, at *url.URL, page func([]byte) error) error {
	for range maxPages {
		b, header, err := r.whole(ctx, at, nil, maxPage, "list "+at.Path)
		if err != nil {
			return err
		}
		if err := page(b); err != nil {
			return err
		}
		next, rel, ok := strings.Cut(header.Get("Link"), ";")
		next = strings.TrimSpace(next)
		if !ok || !strings.Contains(rel, "next") || !strings.HasPrefix(next, "<") || !strings.HasSuffix(next, ">") {
			return nil
		}
		if at, err = at.Parse(next[1 : len(next)-1]); err != nil || !r.owns(at) {
			return invalid("registry %s continues its list at another server", r.base.Host)
		}
	}
	return invalid("registry %s: the list does not end", r.base.Host)
}
