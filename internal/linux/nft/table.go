// Package nft owns one nftables table at a time: a Table is a complete
// description that prints as nft's own language and is applied in one
// transaction, which writes what differs from the table of that name. No other
// table is ever written.
//
// Only the inet family and the expressions the engine needs are here.
package nft

import (
	"fmt"
	"net/netip"
	"strings"
)

// Table is an inet table.
type Table struct {
	Name   string
	Sets   []Set
	Chains []Chain
}

// Type is the type of a field of a set's key or value.
type Type int

// The types of the fields.
const (
	IfName  Type = iota // link name
	IPv4                // address or, in an interval set, prefix
	IPv6                // likewise
	Proto               // layer 4 protocol
	Service             // port
	Verdict             // of a map alone: what its packets meet next
)

// Set is a named set, or a map when Value is not empty.
type Set struct {
	Name     string
	Key      []Type
	Value    []Type
	Interval bool // IPv4 and IPv6 fields of the key are prefixes
	Elements []Element
}

// Element is a member of a set or map. Fields are written as nft prints them:
// link names bare, addresses, prefixes, protocols by name, ports as numbers,
// verdicts as "jump CHAIN" and "goto CHAIN".
type Element struct {
	Key   []string
	Value []string
}

// Hook says where in the packet's way a base chain stands.
type Hook struct {
	Type     string // filter, nat
	Point    string // prerouting, input, forward, output, postrouting
	Priority int
}

// Chain is a base chain (with a Hook) or one to jump to. Base chains have the
// policy accept.
type Chain struct {
	Name  string
	Hook  *Hook
	Rules []Rule
}

// Rule is a list of expressions, the last usually a verdict.
type Rule struct {
	Exprs   []Expr
	Comment string
}

// Expr is one expression of a rule: a condition or a statement. The set of
// implementations is closed.
type Expr interface {
	fmt.Stringer
	lower(l *lowering) error
}

// R is a rule of the given expressions.
func R(e ...Expr) Rule { return Rule{Exprs: e} }

// Because attaches a comment, shown by nft list.
func (r Rule) Because(comment string) Rule { r.Comment = comment; return r }

// String is the table in nft's language, as nft -f reads it.
func (t *Table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", t.Name)
	for _, s := range t.Sets {
		s.print(&b)
	}
	for _, c := range t.Chains {
		c.print(&b)
	}
	b.WriteString("}\n")
	return b.String()
}

func (s *Set) print(b *strings.Builder) {
	word, types := "set", typeNames(s.Key)
	if len(s.Value) > 0 {
		word, types = "map", types+" : "+typeNames(s.Value)
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\ttype %s\n", word, s.Name, types)
	if s.Interval {
		b.WriteString("\t\tflags interval\n")
	}
	for i, e := range s.Elements {
		lead, tail := "\t\t\t     ", ","
		if i == 0 {
			lead = "\t\telements = { "
		}
		if i == len(s.Elements)-1 {
			tail = " }"
		}
		b.WriteString(lead + e.text(s) + tail + "\n")
	}
	b.WriteString("\t}\n\n")
}

func (e Element) text(s *Set) string {
	quote := func(types []Type, fields []string) string {
		out := make([]string, len(fields))
		for i, f := range fields {
			out[i] = f
			if types[i] == IfName {
				out[i] = `"` + f + `"`
			}
		}
		return strings.Join(out, " . ")
	}
	t := quote(s.Key, e.Key)
	if len(s.Value) > 0 {
		t += " : " + quote(s.Value, e.Value)
	}
	return t
}

func (c *Chain) print(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.Name)
	if c.Hook != nil {
		fmt.Fprintf(b, "\t\ttype %s hook %s priority %d; policy accept;\n", c.Hook.Type, c.Hook.Point, c.Hook.Priority)
	}
	for _, r := range c.Rules {
		parts := make([]string, 0, len(r.Exprs)+1)
		for _, e := range r.Exprs {
			parts = append(parts, e.String())
		}
		if r.Comment != "" {
			parts = append(parts, `comment "`+r.Comment+`"`)
		}
		b.WriteString("\t\t" + strings.Join(parts, " ") + "\n")
	}
	b.WriteString("\t}\n\n")
}

func typeNames(types []Type) string {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.String()
	}
	return strings.Join(names, " . ")
}

func (t Type) String() string {
	return [...]string{"ifname", "ipv4_addr", "ipv6_addr", "inet_proto", "inet_service", "verdict"}[t]
}

// set finds a set by name.
func (t *Table) set(name string) (*Set, error) {
	for i := range t.Sets {
		if t.Sets[i].Name == name {
			return &t.Sets[i], nil
		}
	}
	return nil, fmt.Errorf("nft: table %s has no set %s", t.Name, name)
}

// prefixOf reads an address or prefix.
func prefixOf(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		return p.Masked(), err
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}
