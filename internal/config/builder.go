package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// Builder holds what concerns builds. Sizes are in bytes, 0 says nothing.
type Builder struct {
	GC struct {
		Disabled bool
		// Reserved is kept whatever the age, MaxUsed is the cap of the whole cache,
		// MinFree is what the file system must keep free. They make the default rules.
		Reserved, MaxUsed, MinFree int64
		Rules                      []BuilderRule // instead of the default ones
	}
	History                        History
	HostNetwork, Insecure, Devices bool // entitlements: network-host, security-insecure, device
}

// History says which records of builds stay; one goes when it is too old and
// there are too many. Nil says nothing; no entries at all is no history.
type History struct {
	MaxAge     *time.Duration
	MaxEntries *int64
}

// BuilderRule says what of the build cache may go when it is too large.
type BuilderRule struct {
	All                        bool
	Filters                    []string
	Keep                       time.Duration // younger than that stays
	Reserved, MaxUsed, MinFree int64
}

// builder is the key of that name, which only the file has.
func builder(at *Builder) value { return builderValue{at} }

type builderValue struct{ at *Builder }

func (b builderValue) String() string { return fmt.Sprint(*b.at) }

func (b builderValue) Set(string) error { return fmt.Errorf("builder is a key of the file only") }
func (b builderValue) Type() string     { return "builder" }
func (b builderValue) take(v value)     { *b.at = *v.(builderValue).at }

// size is a number of bytes, as a number or as "10GB".
type size int64

func (s *size) UnmarshalJSON(raw []byte) error {
	text := strings.Trim(string(raw), `"`)
	if text == "" {
		*s = 0
		return nil
	}
	n, err := units.RAMInBytes(text)
	if err != nil {
		return fmt.Errorf("invalid size %s: it is a number of bytes, or one with a unit such as 10GB", raw)
	}
	*s = size(n)
	return nil
}

// filters is a list of name=value, or the object of older files: {"name": {"value": true}}.
type filters []string

func (f *filters) UnmarshalJSON(raw []byte) error {
	var old map[string]map[string]bool
	if json.Unmarshal(raw, &old) != nil {
		return json.Unmarshal(raw, (*[]string)(f))
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		for _, v := range slices.Sorted(maps.Keys(old[name])) {
			*f = append(*f, name+"="+v)
		}
	}
	return nil
}

// age is "48h", or a number of seconds.
func age(text string) (time.Duration, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	return time.ParseDuration(text)
}

func (b builderValue) decode(raw json.RawMessage) error {
	in := struct {
		GC struct {
			Enabled  *bool `json:"enabled"`
			Keep     size  `json:"defaultKeepStorage"`
			Reserved size  `json:"defaultReservedSpace"`
			MaxUsed  size  `json:"defaultMaxUsedSpace"`
			MinFree  size  `json:"defaultMinFreeSpace"`
			Policy   []struct {
				All      bool    `json:"all"`
				Filter   filters `json:"filter"`
				Keep     size    `json:"keepStorage"`
				Reserved size    `json:"reservedSpace"`
				MaxUsed  size    `json:"maxUsedSpace"`
				MinFree  size    `json:"minFreeSpace"`
			} `json:"policy"`
		} `json:"gc"`
		Entitlements map[string]bool `json:"entitlements"`
		History      struct {
			MaxAge     string `json:"maxAge"`
			MaxEntries *int64 `json:"maxEntries"`
		} `json:"history"`
	}{}
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return fmt.Errorf("builder: %w", err)
	}
	out := Builder{HostNetwork: true, Devices: true}
	out.GC.Disabled = in.GC.Enabled != nil && !*in.GC.Enabled
	out.GC.Reserved, out.GC.MaxUsed, out.GC.MinFree = int64(in.GC.Reserved), int64(in.GC.MaxUsed), int64(in.GC.MinFree)
	if out.GC.MaxUsed == 0 {
		out.GC.MaxUsed = int64(in.GC.Keep) // the name it had before
	}
	for name, on := range in.Entitlements {
		switch name {
		case "network-host":
			out.HostNetwork = on
		case "security-insecure":
			out.Insecure = on
		case "device":
			out.Devices = on
		default:
			return fmt.Errorf("builder: entitlement %q is not served: network-host, security-insecure and device are", name)
		}
	}
	for _, p := range in.GC.Policy {
		r := BuilderRule{All: p.All, Reserved: int64(p.Reserved), MaxUsed: int64(p.MaxUsed), MinFree: int64(p.MinFree)}
		if r.MaxUsed == 0 {
			r.MaxUsed = int64(p.Keep)
		}
		for _, f := range p.Filter {
			key, text, ok := strings.Cut(f, "=")
			if key != "unused-for" && key != "until" {
				if !ok || !slices.Contains([]string{"id", "parent", "type", "description", "inuse", "shared", "private", "mutable", "immutable"}, strings.TrimRight(key, "=~!")) {
					return fmt.Errorf("builder: gc: invalid filter %q", f)
				}
				r.Filters = append(r.Filters, f)
				continue
			}
			keep, err := age(text)
			if err != nil {
				return fmt.Errorf("builder: gc: invalid filter %q: %w", f, err)
			}
			r.Keep = keep
		}
		out.GC.Rules = append(out.GC.Rules, r)
	}
	if h := in.History; h.MaxAge != "" {
		d, err := age(h.MaxAge)
		if err != nil || d < 0 {
			return fmt.Errorf("builder: history: invalid maxAge %q: it is a time such as 48h", h.MaxAge)
		}
		out.History.MaxAge = &d
	}
	if out.History.MaxEntries = in.History.MaxEntries; out.History.MaxEntries != nil && *out.History.MaxEntries < 0 {
		return fmt.Errorf("builder: history: invalid maxEntries %d", *out.History.MaxEntries)
	}
	*b.at = out
	return nil
}
