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
	"strconv"
	"strings"
	"time"

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

// Until reads the key "until": a time in RFC 3339 form, a Unix time stamp, or a
// length of time before now such as 24h. The zero time when absent.
func (a Args) Until(now time.Time) (time.Time, error) {
	if !a.Has("until") {
		return time.Time{}, nil
	}
	if len(a["until"]) > 1 {
		return time.Time{}, errdefs.ErrInvalidArgument.WithMessage("more than one until filter specified")
	}
	return Time(a["until"][0], now)
}

// Time reads a point in time as the API's parameters carry it: seconds since
// 1970 with an optional fraction, RFC 3339 in full or shortened, or a length of
// time before now. An empty text is the zero time.
func Time(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(-d), nil
	}
	secs, frac, _ := strings.Cut(text, ".")
	if s, err := strconv.ParseInt(secs, 10, 64); err == nil {
		n, err := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
		if err == nil {
			return time.Unix(s, n), nil
		}
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04Z07:00", "2006-01-02T15:04", "2006-01-02T15Z07:00", "2006-01-02T15", "2006-01-02Z07:00", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("failed to parse value as time or duration: %q", text))
}
