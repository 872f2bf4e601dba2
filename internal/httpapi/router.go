package httpapi

import (
	"net/http"
	"strings"
)

// route is one line of the API. A path may hold one {name}; unlike the usual
// pattern it matches slashes too, because image names have them.
type route struct {
	method, path string
	handle       func(*call) error
	since        int // minor API version that brought it; before, it is unknown
}

// router finds the route of a request. Whole paths come before patterns, and
// patterns in the order in which they were given.
type router struct {
	whole    map[string]route   // "GET /containers/json"
	patterns map[string][]split // "GET containers", by the first segment
}

type split struct {
	route
	prefix, suffix string
}

func newRouter(lists ...[]route) *router {
	r := &router{map[string]route{}, map[string][]split{}}
	for _, list := range lists {
		for _, one := range list {
			prefix, suffix, open := strings.Cut(one.path, "{name}")
			if !open {
				r.whole[one.method+" "+one.path] = one
				continue
			}
			key := one.method + " " + firstSegment(one.path)
			r.patterns[key] = append(r.patterns[key], split{one, prefix, suffix})
		}
	}
	return r
}

func firstSegment(path string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return first
}

// find returns the route and what {name} stands for.
func (r *router) find(method, path string) (route, string, bool) {
	if one, ok := r.whole[method+" "+path]; ok {
		return one, "", true
	}
	for _, p := range r.patterns[method+" "+firstSegment(path)] {
		if len(path) > len(p.prefix)+len(p.suffix) && strings.HasPrefix(path, p.prefix) && strings.HasSuffix(path, p.suffix) {
			return p.route, path[len(p.prefix) : len(path)-len(p.suffix)], true
		}
	}
	return route{}, "", false
}

const (
	get    = http.MethodGet
	head   = http.MethodHead
	post   = http.MethodPost
	put    = http.MethodPut
	remove = http.MethodDelete
)
