package build

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/cache/remotecache"
	inlinecache "github.com/moby/buildkit/cache/remotecache/inline"
	localcache "github.com/moby/buildkit/cache/remotecache/local"
	registrycache "github.com/moby/buildkit/cache/remotecache/registry"
)

// attrImports is the frontends' option that names caches, in JSON.
const attrImports = "cache-imports"

// caches are the places that a cache can be written to and taken from.
type caches struct {
	exporters map[string]remotecache.ResolveCacheExporterFunc
	importers map[string]remotecache.ResolveCacheImporterFunc
}

func (e *engine) newCaches() caches {
	hosts := e.b.cfg.Registries.Hosts
	return caches{
		exporters: map[string]remotecache.ResolveCacheExporterFunc{
			"registry": registrycache.ResolveCacheExporterFunc(e.sessions, hosts),
			"local":    localcache.ResolveCacheExporterFunc(e.sessions),
			"inline":   inlinecache.ResolveCacheExporterFunc(),
		},
		importers: map[string]remotecache.ResolveCacheImporterFunc{
			"registry": registrycache.ResolveCacheImporterFunc(e.sessions, e.worker.ContentStore(), hosts),
			"local":    localcache.ResolveCacheImporterFunc(e.sessions),
		},
	}
}

// check refuses a request for others: BuildKit itself says so of one to be
// written in a word that helps nobody, and builds without one to be taken from.
func (c caches) check(r *controlapi.SolveRequest) error {
	imports := r.GetCache().GetImports()
	if text := r.FrontendAttrs[attrImports]; text != "" {
		var more []*controlapi.CacheOptionsEntry
		if err := json.Unmarshal([]byte(text), &more); err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid %s: %v", attrImports, err))
		}
		imports = append(slices.Clone(imports), more...)
	}
	for _, i := range imports {
		if i != nil && c.importers[i.Type] == nil {
			return notServed("taken from", i.Type, maps.Keys(c.importers))
		}
	}
	for _, x := range r.GetCache().GetExports() {
		if x != nil && c.exporters[x.Type] == nil {
			return notServed("written to", x.Type, maps.Keys(c.exporters))
		}
	}
	return nil
}

func notServed(how, kind string, served func(func(string) bool)) error {
	return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("a build cache cannot be %s type=%s by this version of wherryd, only %s", how, kind, strings.Join(slices.Sorted(served), ", ")))
}
