package config

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

// value is one setting: a pflag.Value that can also be set from the file.
// Set on a list adds to it, decode replaces what is there.
type value interface {
	String() string
	Set(string) error
	Type() string
	decode(json.RawMessage) error
	take(value) // copies from the same setting of another Config
}

// scalar is a setting of one word. parse reads the flag's text; the file may
// hold the type itself or the same text.
type scalar[T any] struct {
	at    *T
	kind  string
	parse func(string) (T, error)
	show  func(T) string
}

func (s scalar[T]) String() string {
	if s.show != nil {
		return s.show(*s.at)
	}
	return fmt.Sprint(*s.at)
}

func (s scalar[T]) Set(text string) error {
	v, err := s.parse(text)
	if err == nil {
		*s.at = v
	}
	return err
}

func (s scalar[T]) Type() string { return s.kind }

func (s scalar[T]) take(v value) { *s.at = *v.(scalar[T]).at }

func (s scalar[T]) decode(raw json.RawMessage) error {
	var text string
	if _, isText := any(*s.at).(string); !isText && json.Unmarshal(raw, &text) == nil {
		return s.Set(text)
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	if s.kind == "bool" || s.kind == "int" {
		*s.at = v
		return nil
	}
	return s.Set(fmt.Sprint(v))
}

func boolean(at *bool) value { return scalar[bool]{at: at, kind: "bool", parse: strconv.ParseBool} }

func integer(at *int) value { return scalar[int]{at: at, kind: "int", parse: strconv.Atoi} }

func text(at *string) value {
	return scalar[string]{at: at, kind: "string", parse: func(s string) (string, error) { return s, nil }}
}

// choice is text that must be one of the words.
func choice(at *string, what string, words ...string) value {
	return scalar[string]{at: at, kind: "string", parse: func(s string) (string, error) {
		if !slices.Contains(words, strings.ToLower(s)) {
			return "", fmt.Errorf("invalid %s: %s", what, s)
		}
		return strings.ToLower(s), nil
	}}
}

func memory(at *int64) value {
	return scalar[int64]{at: at, kind: "bytes", parse: units.RAMInBytes,
		show: func(n int64) string { return units.BytesSize(float64(n)) }}
}

func address(at *netip.Addr) value {
	return scalar[netip.Addr]{at: at, kind: "ip",
		parse: func(s string) (netip.Addr, error) {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return a, fmt.Errorf("invalid IP address %q", s)
			}
			return a, nil
		},
		show: func(a netip.Addr) string {
			if !a.IsValid() {
				return ""
			}
			return a.String()
		}}
}

// network4 and network6 are an address or network with its prefix length.
func network4(at *string) value { return prefix(at, "IPv4", netip.Addr.Is4) }
func network6(at *string) value { return prefix(at, "IPv6", netip.Addr.Is6) }

func prefix(at *string, word string, is func(netip.Addr) bool) value {
	return scalar[string]{at: at, kind: "string", parse: func(s string) (string, error) {
		if p, err := netip.ParsePrefix(s); s != "" && (err != nil || !is(p.Addr())) {
			return "", fmt.Errorf("invalid network %q: must be an %s address with a prefix length", s, word)
		}
		return s, nil
	}}
}

// list is a setting that may be given several times.
type list[T any] struct {
	at    *[]T
	kind  string
	parse func(string) (T, error)
}

func (l list[T]) String() string {
	if len(*l.at) == 0 {
		return ""
	}
	return fmt.Sprint(*l.at)
}

func (l list[T]) Set(text string) error {
	v, err := l.parse(text)
	if err == nil {
		*l.at = append(*l.at, v)
	}
	return err
}

func (l list[T]) Type() string { return l.kind }

func (l list[T]) take(v value) { *l.at = *v.(list[T]).at }

func (l list[T]) decode(raw json.RawMessage) error {
	var words []string
	if err := json.Unmarshal(raw, &words); err != nil {
		return err
	}
	*l.at = nil
	for _, w := range words {
		if err := l.Set(w); err != nil {
			return err
		}
	}
	return nil
}

func words(at *[]string, check func(string) (string, error)) value {
	if check == nil {
		check = func(s string) (string, error) { return s, nil }
	}
	return list[string]{at: at, kind: "list", parse: check}
}

func addresses(at *[]netip.Addr) value {
	return list[netip.Addr]{at: at, kind: "list", parse: func(s string) (netip.Addr, error) {
		a, err := netip.ParseAddr(strings.TrimSpace(s))
		if err != nil {
			return a, fmt.Errorf("IP address is not correctly formatted: %s", s)
		}
		return a, nil
	}}
}

// table is a setting of named values; add reads one from the flag's text.
type table[T any] struct {
	at   *map[string]T
	kind string
	add  func(string) (string, T, error)
	keep bool // the file adds to the flags instead of being in conflict with them
}

func (t table[T]) String() string {
	if len(*t.at) == 0 {
		return ""
	}
	b, err := json.Marshal(*t.at) // sorted by name, so that two equal ones compare equal
	if err != nil {
		return fmt.Sprint(*t.at)
	}
	return string(b)
}

func (t table[T]) Set(text string) error {
	k, v, err := t.add(text)
	if err == nil {
		(*t.at)[k] = v
	}
	return err
}

func (t table[T]) Type() string { return t.kind }

func (t table[T]) take(v value) { *t.at = *v.(table[T]).at }

func (t table[T]) decode(raw json.RawMessage) error {
	m := map[string]T{}
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	if !t.keep {
		*t.at = m
		return nil
	}
	for k, v := range m {
		if _, dup := (*t.at)[k]; dup {
			return fmt.Errorf("runtime '%s' is already registered", k)
		}
		(*t.at)[k] = v
	}
	return nil
}

func pairs(at *map[string]string) value {
	return table[string]{at: at, kind: "map", add: func(s string) (string, string, error) {
		k, v, _ := strings.Cut(s, "=")
		return k, v, nil
	}}
}

func switches(at *map[string]bool) value {
	return table[bool]{at: at, kind: "map", add: func(s string) (string, bool, error) {
		k, v, given := strings.Cut(s, "=")
		if !given {
			return k, true, nil
		}
		on, err := strconv.ParseBool(v)
		return k, on, err
	}}
}

func ulimits(at *map[string]*units.Ulimit) value {
	return table[*units.Ulimit]{at: at, kind: "ulimit", add: func(s string) (string, *units.Ulimit, error) {
		l, err := units.ParseUlimit(s)
		if err != nil {
			return "", nil, err
		}
		return l.Name, l, nil
	}}
}

func runtimes(at *map[string]Runtime) value {
	return table[Runtime]{at: at, kind: "runtime", keep: true, add: func(s string) (string, Runtime, error) {
		name, path, ok := strings.Cut(s, "=")
		name, path = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(path)
		switch {
		case !ok || name == "" || path == "":
			return "", Runtime{}, fmt.Errorf("invalid runtime argument: %s", s)
		case name == DefaultRuntime:
			return "", Runtime{}, fmt.Errorf("runtime name '%s' is reserved", name)
		}
		if _, dup := (*at)[name]; dup {
			return "", Runtime{}, fmt.Errorf("runtime '%s' was already defined", name)
		}
		return name, Runtime{Path: path}, nil
	}}
}

// pools is --default-address-pool base=10.10.0.0/16,size=24.
type pools struct{ at *[]AddressPool }

func (p pools) String() string {
	var out []string
	for _, pool := range *p.at {
		out = append(out, fmt.Sprintf("base=%s,size=%d", pool.Base, pool.Size))
	}
	return strings.Join(out, " ")
}

func (p pools) Type() string { return "pool-options" }

func (p pools) take(v value) { *p.at = *v.(pools).at }

func (p pools) Set(text string) error {
	var pool AddressPool
	for field := range strings.SplitSeq(text, ",") {
		k, v, ok := strings.Cut(field, "=")
		if !ok {
			return fmt.Errorf("invalid field '%s' must be a key=value pair", field)
		}
		var err error
		switch strings.ToLower(k) {
		case "base":
			pool.Base, err = netip.ParsePrefix(v)
		case "size":
			pool.Size, err = strconv.Atoi(v)
		default:
			return fmt.Errorf("unexpected key '%s' in '%s'", k, field)
		}
		if err != nil {
			return fmt.Errorf("invalid %s value '%s': %w", k, v, err)
		}
	}
	return p.add(pool)
}

func (p pools) add(pool AddressPool) error {
	if !pool.Base.IsValid() || pool.Size < pool.Base.Bits() || pool.Size > pool.Base.Addr().BitLen() {
		return fmt.Errorf("invalid address pool: base %s, size %d", pool.Base, pool.Size)
	}
	*p.at = append(*p.at, pool)
	return nil
}

func (p pools) decode(raw json.RawMessage) error {
	var all []AddressPool
	if err := json.Unmarshal(raw, &all); err != nil {
		return err
	}
	*p.at = nil
	for _, pool := range all {
		if err := p.add(pool); err != nil {
			return err
		}
	}
	return nil
}

// driverOptions is --default-network-opt bridge=com.docker.network.driver.mtu=1400.
type driverOptions struct{ at *map[string]map[string]string }

func (d driverOptions) String() string {
	if len(*d.at) == 0 {
		return ""
	}
	b, err := json.Marshal(*d.at) // sorted by name, so that two equal ones compare equal
	if err != nil {
		return fmt.Sprint(*d.at)
	}
	return string(b)
}

func (d driverOptions) Type() string { return "mapmap" }

func (d driverOptions) take(v value) { *d.at = *v.(driverOptions).at }

func (d driverOptions) Set(text string) error {
	driver, rest, ok := strings.Cut(text, "=")
	k, v, ok2 := strings.Cut(rest, "=")
	if !ok || !ok2 || driver == "" || k == "" {
		return fmt.Errorf("invalid value %q for --default-network-opt: must be driver=option=value", text)
	}
	if *d.at == nil {
		*d.at = map[string]map[string]string{}
	}
	if (*d.at)[driver] == nil {
		(*d.at)[driver] = map[string]string{}
	}
	(*d.at)[driver][k] = v
	return nil
}

func (d driverOptions) decode(raw json.RawMessage) error {
	m := map[string]map[string]string{}
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	*d.at = m
	return nil
}
