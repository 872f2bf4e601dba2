// Package filter reads the "filters" query parameter of the Engine API and
// matches objects against it. Values of one key are alternatives, different
// keys must all match, as dockerd does it.
package filter

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/containerd/errdefs"
)

// Args maps a filter's key to the wanted values, in the order of the text.
type Args map[string][]string

// Parse decodes the parameter in its present form, {"key":{"value":true}}, and
// in the form of API 1.21 and older, {"key":["value"]}. An empty text is no
// filter. What cannot be decoded is errdefs.ErrInvalidArgument.
func Parse(text string) (Args, error) {
	if text == "" {
		return Args{}, nil
	}
	var now map[string]map[string]bool
	if err := json.Unmarshal([]byte(text), &now); err == nil {
		a := Args{}
		for k, vs := range now {
			for v := range vs {
				a[k] = append(a[k], v)
			}
			sort.Strings(a[k])
		}
		return a, nil
	}
	var old map[string][]string
	if err := json.Unmarshal([]byte(text), &old); err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage("invalid filter: " + err.Error())
	}
	return Args(old), nil
}

// Validate refuses keys outside accepted with dockerd's words.
func (a Args) Validate(accepted ...string) error {
	keys := make([]string, 0, len(a))
	for k := range a {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		if !slices.Contains(accepted, k) {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter '%s'", k))
		}
	}
	return nil
}

// Has reports whether the key was given.
func (a Args) Has(key string) bool { return len(a[key]) > 0 }

// Exact reports whether value is among the wanted ones, or the key is absent.
func (a Args) Exact(key, value string) bool {
	return !a.Has(key) || slices.Contains(a[key], value)
}

// Match is Exact, and also takes wanted values as regular expressions.
func (a Args) Match(key, value string) bool {
	if a.Exact(key, value) {
		return true
	}
	for _, want := range a[key] {
		if ok, err := regexp.MatchString(want, value); err == nil && ok {
			return true
		}
	}
	return false
}

// Prefix reports whether value begins with a wanted one, or the key is absent.
func (a Args) Prefix(key, value string) bool {
	if !a.Has(key) {
		return true
	}
	return slices.ContainsFunc(a[key], func(want string) bool { return strings.HasPrefix(value, want) })
}

// Glob reports whether value matches a wanted shell pattern, or the key is absent.
func (a Args) Glob(key, value string) bool {
	if !a.Has(key) {
		return true
	}
	return slices.ContainsFunc(a[key], func(want string) bool {
		ok, err := path.Match(want, value)
		return err == nil && ok || want == value
	})
}

// Labels reports whether labels holds every wanted "name" or "name=value".
// Unlike the other keys, several labels must all be there.
func (a Args) Labels(key string, labels map[string]string) bool {
	for _, want := range a[key] {
		name, value, withValue := strings.Cut(want, "=")
		have, ok := labels[name]
		if !ok || withValue && have != value {
			return false
		}
	}
	return true
}

// Bool reads a key that is a truth value; def when absent.
func (a Args) Bool(key string, def bool) (bool, error) {
	if !a.Has(key) {
		return def, nil
	}
	if len(a[key]) == 1 {
		switch a[key][0] {
		case "1", "true":
			return true, nil
		case "0", "false":
			return false, nil
		}
	}
	return def, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter '%s=%s'", key, a[key]))
}
