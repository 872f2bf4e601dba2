package transfer

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/transfer/failure"
	"github.com/wherry-engine/wherry/internal/transfer/login"
)

// indexServer is what clients call Docker Hub when they log in.
const indexServer = "https://index.docker.io/v1/"

// Login checks credentials with a registry. The identity token in the answer,
// if any, is to be kept in place of the password.
func (c *Client) Login(ctx context.Context, a registry.AuthConfig) (*registry.AuthResponse, error) {
	creds, err := login.FromConfig(a)
	if err != nil {
		return nil, err
	}
	host := strings.TrimSuffix(a.ServerAddress, "/")
	if host == "" || a.ServerAddress == indexServer || host == "https://index.docker.io/v1" {
		host = hub
	}
	host = strings.TrimPrefix(strings.TrimPrefix(host, "https://"), "http://")
	host, _, _ = strings.Cut(host, "/")
	if host == hubIndex || host == hubRegistry {
		host = hub
	}
	list, err := c.set.Load().endpoints(host, creds, false)
	if err != nil {
		return nil, err
	}
	var out *registry.AuthResponse
	var remotes []*remote
	for _, e := range list {
		remotes = append(remotes, &remote{endpoint: e, agent: c.agent, login: e.login(c.agent)})
	}
	_, err = c.firstOf(ctx, host, remotes, func(ctx context.Context, r *remote) error {
		at := r.base.JoinPath("v2", "/")
		resp, err := r.do(ctx, call{method: http.MethodGet, url: at})
		if err != nil {
			if failure.Answered(err) {
				return &failure.Error{Kind: errdefs.ErrUnauthenticated, Cause: &url.Error{Op: "Get", URL: at.String(), Err: err}}
			}
			return err
		}
		if resp.StatusCode != http.StatusOK {
			err := failure.Read(resp)
			if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
				return &failure.Error{Kind: errdefs.ErrUnauthenticated, Cause: fmt.Errorf("login attempt to %s failed with status: %s", at, resp.Status)}
			}
			return err
		}
		drain(resp)
		out = &registry.AuthResponse{Status: "Login Succeeded", IdentityToken: r.login.Identity()}
		return nil
	})
	return out, err
}

// Probe tells whether any server answers for the registry of ref, quickly.
func (c *Client) Probe(ctx context.Context, ref string) error {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return invalid("%v", err)
	}
	list, err := c.remotes(reference.Domain(named), reference.Path(named), "pull", login.Credentials{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, quick)
	defer cancel()
	for _, r := range list {
		resp, _, rerr := r.once(ctx, call{method: http.MethodGet, url: r.base.JoinPath("v2", "/")})
		if err = rerr; err == nil {
			drain(resp)
			return nil
		}
	}
	return err
}

// Distribution tells what a registry has under a name.
func (c *Client) Distribution(ctx context.Context, ref, auth string) (*registry.DistributionInspect, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, invalid("%v", err)
	}
	named = reference.TagNameOnly(named)
	creds, err := login.Decode(auth)
	if err != nil {
		return nil, err
	}
	from, err := c.remotes(reference.Domain(named), reference.Path(named), "pull", creds)
	if err != nil {
		return nil, err
	}
	p := &pull{Client: c, named: named, from: from}
	top, err := p.find(ctx)
	if err != nil {
		return nil, failure.OfPull(err, named)
	}
	out := &registry.DistributionInspect{Descriptor: top.desc, Platforms: []ocispec.Platform{}}
	if top.doc.Index != nil {
		for _, m := range top.doc.Index.Manifests {
			if m.Platform != nil && m.Annotations["vnd.docker.reference.type"] == "" {
				out.Platforms = append(out.Platforms, *m.Platform)
			}
		}
		return out, nil
	}
	var b []byte
	if _, err = c.firstOf(ctx, named.String(), p.from, func(ctx context.Context, r *remote) (err error) {
		b, err = r.small(ctx, top.doc.Image.Config, maxConfig)
		return err
	}); err != nil {
		return nil, err
	}
	var platform ocispec.Platform
	if json.Unmarshal(b, &platform) == nil && platform.OS != "" {
		out.Platforms = append(out.Platforms, platforms.Normalize(platform))
	}
	return out, nil
}

// Bounds on a search.
const (
	maxSearch     = 100
	maxFound      = 10_000 // of a catalogue, before the filters
	defaultSearch = 25
)

// Search asks for images whose name has a word in it: Docker Hub, or with
// host/word another registry. One without a search of its own is asked for its
// catalogue.
func (c *Client) Search(ctx context.Context, term string, limit int, f filter.Args, auth string) ([]registry.SearchResult, error) {
	if err := f.Validate("is-automated", "is-official", "stars"); err != nil {
		return nil, err
	}
	if limit == 0 {
		limit = defaultSearch
	}
	if limit < 1 || limit > maxSearch {
		return nil, invalid("limit %d is outside the range of [1, %d]", limit, maxSearch)
	}
	keep, err := searchFilter(f)
	if err != nil {
		return nil, err
	}
	if strings.Contains(term, "://") {
		return nil, invalid(`invalid repository name: repository name (%s) should not have a scheme`, term)
	}
	creds, err := login.Decode(auth)
	if err != nil {
		return nil, err
	}
	host, word, ok := strings.Cut(term, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, word = hub, term
	}
	word = strings.TrimPrefix(word, "library/")
	set := c.set.Load()
	list, err := set.endpoints(host, creds, false)
	if err != nil {
		return nil, err
	}
	if host == hub {
		list[0].base = &url.URL{Scheme: "https", Host: hubIndex}
	}
	var remotes []*remote
	for _, e := range list {
		remotes = append(remotes, &remote{endpoint: e, agent: c.agent, login: e.login(c.agent)})
	}
	var found []registry.SearchResult
	_, err = c.firstOf(ctx, term, remotes, func(ctx context.Context, r *remote) (err error) {
		if found, err = r.search(ctx, word, limit); err == nil || !errdefs.IsNotFound(err) {
			return err
		}
		found, err = r.catalogue(ctx, word)
		if failure.Answered(err) {
			return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("registry %s has no search, and does not tell its catalogue: %v", r.base.Host, err))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	out := []registry.SearchResult{}
	for _, one := range found {
		if keep(one) && len(out) < limit {
			one.Name, one.Description = failure.Clean(one.Name), failure.Clean(one.Description)
			out = append(out, one)
		}
	}
	return out, nil
}

// search is the first registry API's.
func (r *remote) search(ctx context.Context, word string, limit int) ([]registry.SearchResult, error) {
	u := r.base.JoinPath("v1", "search")
	u.RawQuery = url.Values{"q": {word}, "n": {strconv.Itoa(limit)}}.Encode()
	b, _, err := r.whole(ctx, u, http.Header{"Accept": {"application/json"}}, maxPage, "search")
	if err != nil {
		return nil, err
	}
	var doc registry.SearchResults
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, notFound("registry %s has no search", r.base.Host)
	}
	return doc.Results, nil
}

// catalogue looks for the word in the names of all repositories.
func (r *remote) catalogue(ctx context.Context, word string) (out []registry.SearchResult, err error) {
	r.login.Need("registry:catalog:*")
	err = r.pages(ctx, r.base.JoinPath("v2", "_catalog"), func(b []byte) error {
		var page struct{ Repositories []string }
		if err := json.Unmarshal(b, &page); err != nil {
			return invalid("catalogue of %s: %v", r.base.Host, err)
		}
		for _, name := range page.Repositories {
			if strings.Contains(name, word) && len(out) < maxFound {
				out = append(out, registry.SearchResult{Name: r.base.Host + "/" + name})
			}
		}
		return nil
	})
	return out, err
}

func searchFilter(f filter.Args) (func(registry.SearchResult) bool, error) {
	stars := 0
	for _, text := range f["stars"] {
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, invalid("invalid filter 'stars=%s'", text)
		}
		stars = max(stars, n)
	}
	official, err := f.Bool("is-official", false)
	if err != nil {
		return nil, err
	}
	automated, err := f.Bool("is-automated", false)
	if err != nil {
		return nil, err
	}
	return func(r registry.SearchResult) bool {
		return r.StarCount >= stars && (!f.Has("is-official") || r.IsOfficial == official) && (!f.Has("is-automated") || !automated)
	}, nil
}
