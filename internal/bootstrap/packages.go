package bootstrap

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// pkg is what a Packages list says of one package.
type pkg struct {
	name, version, filename string
	file
	needs    []relation
	provides []string
	base     bool // essential or required
}

// filenameForm is of what can be said to a shell.
var filenameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+._~%-]*\.deb$`)

// relation is one entry of Depends: any of these names will do.
type relation []string

// index is a Packages list.
type index struct {
	byName   map[string]*pkg
	provided map[string][]*pkg
}

func parsePackages(r *bufio.Reader) (*index, error) {
	x := &index{byName: map[string]*pkg{}, provided: map[string][]*pkg{}}
	fields, key := map[string]string{}, ""
	finish := func() error {
		if len(fields) == 0 {
			return nil
		}
		size, err := strconv.ParseInt(fields["Size"], 10, 64)
		if err != nil || !packageForm.MatchString(fields["Package"]) || !filenameForm.MatchString(path.Base(fields["Filename"])) || len(fields["SHA256"]) != 64 {
			return fmt.Errorf("package %q: name, size, file name or SHA256 is missing or not of their form", fields["Package"])
		}
		p := &pkg{name: fields["Package"], version: fields["Version"], filename: fields["Filename"], file: file{fields["SHA256"], size},
			base: fields["Essential"] == "yes" || fields["Priority"] == "required"}
		p.needs = append(relations(fields["Pre-Depends"]), relations(fields["Depends"])...)
		for _, alternatives := range relations(fields["Provides"]) {
			p.provides = append(p.provides, alternatives...)
		}
		if x.byName[p.name] == nil {
			x.byName[p.name] = p
			for _, name := range p.provides {
				x.provided[name] = append(x.provided[name], p)
			}
		}
		clear(fields)
		return nil
	}
	for {
		line, err := r.ReadString('\n')
		text := strings.TrimRight(line, "\n")
		switch {
		case text == "":
			if ferr := finish(); ferr != nil {
				return nil, ferr
			}
		case text[0] == ' ' || text[0] == '\t':
			fields[key] += "\n" + text
		default:
			var value string
			key, value, _ = strings.Cut(text, ":")
			fields[key] = strings.TrimSpace(value)
		}
		if errors.Is(err, io.EOF) {
			return x, finish()
		}
		if err != nil {
			return nil, err
		}
	}
}

// relations reads "a (>= 1) | b, c:any" without the versions: the lists of one
// suite fit together.
func relations(text string) (list []relation) {
	for _, entry := range strings.Split(text, ",") {
		var r relation
		for _, one := range strings.Split(entry, "|") {
			if f := strings.Fields(one); len(f) > 0 {
				name, _, _ := strings.Cut(strings.TrimRight(f[0], "("), ":")
				r = append(r, name)
			}
		}
		if len(r) > 0 {
			list = append(list, r)
		}
	}
	return list
}

// selection is what goes into the image: base is unpacked by the engine, so
// that dpkg can run; the rest dpkg installs.
type selection struct{ base, rest []*pkg }

// choose finds the packages of a base system and of include, with all that
// they depend on, sorted by name.
func (x *index) choose(include []string) (*selection, error) {
	var base []string
	for name, p := range x.byName {
		if p.base {
			base = append(base, name)
		}
	}
	if len(base) == 0 {
		return nil, errors.New("the list names no essential packages")
	}
	// Debian's usrmerge would move things that lie where they belong.
	for _, name := range []string{"usr-is-merged", "apt"} {
		if x.byName[name] != nil {
			base = append(base, name)
		}
	}
	chosen := map[string]*pkg{}
	slices.Sort(base)
	for _, name := range base {
		chosen[name] = x.byName[name]
	}
	for _, name := range base {
		if err := x.complete(chosen, chosen[name]); err != nil {
			return nil, err
		}
	}
	first := maps.Clone(chosen)
	for _, name := range include {
		if x.byName[name] == nil && len(x.provided[name]) == 0 {
			return nil, errdefs.ErrNotFound.WithMessage("there is no package " + name)
		}
		if err := x.add(chosen, name, "--include"); err != nil {
			return nil, err
		}
	}
	s := &selection{}
	for _, name := range slices.Sorted(maps.Keys(chosen)) {
		if first[name] != nil {
			s.base = append(s.base, chosen[name])
		} else {
			s.rest = append(s.rest, chosen[name])
		}
	}
	return s, nil
}

// add chooses a package, or one that provides it, and all that it needs.
func (x *index) add(chosen map[string]*pkg, name, who string) error {
	p := x.byName[name]
	if p == nil {
		for _, other := range x.provided[name] {
			if chosen[other.name] != nil {
				return nil
			}
		}
		if len(x.provided[name]) == 0 {
			return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s needs %s, which the mirror does not have", who, name))
		}
		p = x.provided[name][0]
	}
	if chosen[p.name] != nil {
		return nil
	}
	chosen[p.name] = p
	return x.complete(chosen, p)
}

// complete chooses what a chosen package needs.
func (x *index) complete(chosen map[string]*pkg, p *pkg) error {
	for _, r := range p.needs {
		if err := x.any(chosen, r, p.name); err != nil {
			return err
		}
	}
	return nil
}

// any satisfies one relation: with what is chosen, else the first that exists.
func (x *index) any(chosen map[string]*pkg, r relation, who string) error {
	for _, name := range r {
		if chosen[name] != nil {
			return nil
		}
		for _, p := range x.provided[name] {
			if chosen[p.name] != nil {
				return nil
			}
		}
	}
	for _, name := range r {
		if x.byName[name] != nil || len(x.provided[name]) > 0 {
			return x.add(chosen, name, who)
		}
	}
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s needs %s, which the mirror does not have", who, strings.Join(r, " or ")))
}
