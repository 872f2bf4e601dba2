package container

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

// Link is a name under which a container of the default network knows another.
type Link struct {
	Target string // id of the other
	Alias  string
}

// ParseLink reads "name:alias", "name", or what inspect says: "/name:/own/alias".
func ParseLink(s string) (name, alias string, err error) {
	name, alias, ok := strings.Cut(s, ":")
	if !ok {
		alias = name
	}
	switch {
	case s == "":
		return "", "", errdefs.ErrInvalidArgument.WithMessage("empty string specified for links")
	case strings.HasPrefix(name, "/") && ok:
		name, alias = name[1:], path.Base(alias)
	}
	if name == "" || alias == "" || strings.ContainsAny(alias, ": \t\n/") {
		return "", "", errdefs.ErrInvalidArgument.WithMessage("bad format for links: " + s)
	}
	return name, alias, nil
}

// Links are the links of a container of the default network. Its record has
// them as "id:alias", so that the other one may be renamed.
func (r *Record) Links() []Link {
	if r.HostConfig == nil || r.HostConfig.NetworkMode.IsUserDefined() {
		return nil
	}
	var out []Link
	for _, s := range r.HostConfig.Links {
		if target, alias, err := ParseLink(s); err == nil {
			out = append(out, Link{target, alias})
		}
	}
	return out
}

// ShownLinks are the links as inspect shows them, "/name:/own/alias". A link to
// a container that is gone is not shown.
func (s *Store) ShownLinks(r *Record) []string {
	var out []string
	for _, l := range r.Links() {
		if other, err := s.Get(l.Target); err == nil {
			out = append(out, fmt.Sprintf("/%s:/%s/%s", other.Snapshot().Name, r.Name, l.Alias))
		}
	}
	return out
}
