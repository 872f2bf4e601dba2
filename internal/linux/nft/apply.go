package nft

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"golang.org/x/sys/unix"
)

// Conn writes tables of the network namespace it was dialled for. It is safe
// for concurrent use.
type Conn struct {
	mu    sync.Mutex
	c     *nftables.Conn // reads
	w     *writer
	flags uint32 // of the tables that Replace writes
}

// Flags of tables that the library does not name.
const (
	owner   = 2 // Linux 5.12
	persist = 4 // Linux 6.9
)

// Own makes the tables that Replace writes from now on this socket's: nobody
// else can flush, change or delete them, nft flush ruleset passes them by, and
// they stay when the process ends, as anybody's until Replace takes them again.
// A kernel before Linux 6.9 cannot do both; there they are like others.
func (c *Conn) Own() { c.flags = owner | persist }

// Owns reports whether tables are owned.
func (c *Conn) Owns() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flags != 0
}

// Dial opens a lasting socket in the given network namespace.
func Dial(ns *os.File) (*Conn, error) {
	c, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return nil, fmt.Errorf("nftables socket: %w", err)
	}
	w, err := newWriter(ns)
	if err != nil {
		_ = c.CloseLasting()
		return nil, err
	}
	return &Conn{c: c, w: w}, nil
}

// Close closes the sockets; tables stay.
func (c *Conn) Close() error { return errors.Join(c.c.CloseLasting(), c.w.close()) }

// Create is Replace where there is most likely no such table. Deleting one is
// dear: the next socket of this kind that is closed waits for it, which takes
// milliseconds.
func (c *Conn) Create(t *Table) error {
	c.mu.Lock()
	table := &nftables.Table{Name: t.Name, Family: nftables.TableFamilyINet}
	c.w.c.CreateTable(table)
	err := c.write(t, table, 0)
	c.mu.Unlock()
	if errors.Is(err, unix.EEXIST) {
		return c.Replace(t)
	}
	return err
}

// write adds the table with all it has. c.mu is held.
func (c *Conn) write(t *Table, table *nftables.Table, flags uint32) error {
	c.w.c.AddTable(table)
	if err := c.fill(t, table); err != nil {
		c.discard()
		return err
	}
	if err := c.w.flush(flags); err != nil {
		return fmt.Errorf("write nft table %s: %w", t.Name, err)
	}
	return nil
}

// discard forgets the messages collected so far.
func (c *Conn) discard() {
	_ = c.w.reset() // nothing is dialled that could fail
}

func (c *Conn) fill(t *Table, table *nftables.Table) error {
	sets, later := map[string]*nftables.Set{}, map[*nftables.Set][]nftables.SetElement{}
	for i := range t.Sets {
		s := &t.Sets[i]
		set, err := s.kernel(table)
		if err != nil {
			return err
		}
		// The library would count in a variable that all connections share,
		// unlocked; an id has to be unique in its transaction only.
		set.ID = uint32(i + 1)
		elems, err := s.kernelElements(s.Elements)
		if err != nil {
			return err
		}
		if s.verdicts() {
			later[set], elems = elems, nil // once there are the chains
		}
		if err := c.w.c.AddSet(set, elems); err != nil {
			return fmt.Errorf("nft set %s: %w", s.Name, err)
		}
		sets[s.Name] = set
	}
	// All chains first: rules may jump to any of them.
	chains := make([]*nftables.Chain, len(t.Chains))
	for i := range t.Chains {
		chains[i] = t.Chains[i].kernel(table)
		c.w.c.AddChain(chains[i])
	}
	for set, elems := range later {
		if len(elems) == 0 {
			continue
		}
		if err := c.w.c.SetAddElements(set, elems); err != nil {
			return fmt.Errorf("nft map %s: %w", set.Name, err)
		}
	}
	for i, chain := range chains {
		if err := c.addRules(t, &t.Chains[i], sets, chain); err != nil {
			return fmt.Errorf("nft chain %s: %w", chain.Name, err)
		}
	}
	return nil
}

func (ch *Chain) kernel(table *nftables.Table) *nftables.Chain {
	k := &nftables.Chain{Name: ch.Name, Table: table}
	if ch.Hook == nil {
		return k
	}
	k.Type = nftables.ChainType(ch.Hook.Type)
	k.Hooknum = map[string]*nftables.ChainHook{
		"prerouting": nftables.ChainHookPrerouting, "input": nftables.ChainHookInput, "forward": nftables.ChainHookForward,
		"output": nftables.ChainHookOutput, "postrouting": nftables.ChainHookPostrouting,
	}[ch.Hook.Point]
	k.Priority = nftables.ChainPriorityRef(nftables.ChainPriority(ch.Hook.Priority))
	accept := nftables.ChainPolicyAccept
	k.Policy = &accept
	return k
}

func concat(types []Type) (nftables.SetDatatype, error) {
	known := map[Type]nftables.SetDatatype{IfName: nftables.TypeIFName, IPv4: nftables.TypeIPAddr, IPv6: nftables.TypeIP6Addr, Proto: nftables.TypeInetProto, Service: nftables.TypeInetService, Verdict: nftables.TypeVerdict}
	if len(types) == 1 {
		return known[types[0]], nil
	}
	list := make([]nftables.SetDatatype, len(types))
	for i, t := range types {
		list[i] = known[t]
	}
	return nftables.ConcatSetType(list...)
}

func (s *Set) kernel(table *nftables.Table) (*nftables.Set, error) {
	key, err := concat(s.Key)
	if err != nil {
		return nil, fmt.Errorf("nft set %s: %w", s.Name, err)
	}
	k := &nftables.Set{
		Table: table, Name: s.Name, KeyType: key, Interval: s.Interval,
		IsMap: len(s.Value) > 0, Concatenation: len(s.Key) > 1, KeyByteOrder: binaryutil.BigEndian,
	}
	if len(s.Key) == 1 && s.Key[0] == IfName {
		k.KeyByteOrder = binaryutil.NativeEndian
	}
	if k.IsMap {
		if k.DataType, err = concat(s.Value); err != nil {
			return nil, fmt.Errorf("nft map %s: %w", s.Name, err)
		}
	}
	return k, nil
}

// pack is the kernel's form of a concatenation: each field padded to whole
// registers; last selects the end of an interval.
func pack(types []Type, fields []string, last bool) ([]byte, error) {
	if len(fields) != len(types) {
		return nil, fmt.Errorf("nft: %d fields %v for a type of %d", len(fields), fields, len(types))
	}
	var out []byte
	for i, t := range types {
		b, err := t.encode(fields[i])
		if err != nil {
			return nil, err
		}
		if last && (t == IPv4 || t == IPv6) {
			p, err := prefixOf(fields[i])
			if err != nil {
				return nil, err
			}
			for i, m := range mask(p) {
				b[i] |= ^m
			}
		}
		out = append(out, b...)
		for len(types) > 1 && len(out)%4 != 0 {
			out = append(out, 0)
		}
	}
	return out, nil
}

func (s *Set) kernelElements(elements []Element) ([]nftables.SetElement, error) {
	var out []nftables.SetElement
	for _, e := range elements {
		key, err := pack(s.Key, e.Key, false)
		if err != nil {
			return nil, fmt.Errorf("set %s: %w", s.Name, err)
		}
		k := nftables.SetElement{Key: key}
		if s.verdicts() {
			if k.VerdictData, err = verdictOf(strings.Join(e.Value, "")); err != nil {
				return nil, fmt.Errorf("map %s: %w", s.Name, err)
			}
		} else if len(s.Value) > 0 {
			if k.Val, err = pack(s.Value, e.Value, false); err != nil {
				return nil, fmt.Errorf("map %s: %w", s.Name, err)
			}
		}
		if !s.Interval {
			out = append(out, k)
			continue
		}
		end, err := pack(s.Key, e.Key, true)
		if err != nil {
			return nil, fmt.Errorf("set %s: %w", s.Name, err)
		}
		if len(s.Key) > 1 {
			k.KeyEnd = end
			out = append(out, k)
			continue
		}
		// A plain interval set has its ends as elements: the first one behind.
		out = append(out, k)
		if next := increment(end); next != nil {
			out = append(out, nftables.SetElement{Key: next, IntervalEnd: true})
		}
	}
	return out, nil
}

// increment returns the following number, nil past the last one.
func increment(b []byte) []byte {
	out := append([]byte(nil), b...)
	for i := len(out) - 1; i >= 0; i-- {
		out[i]++
		if out[i] != 0 {
			return out
		}
	}
	return nil
}

// Change adds and removes elements of sets and maps of an existing table in
// one transaction. t describes the sets; its Elements and Chains do not matter.
type Change struct {
	Set         string
	Add, Remove []Element
}

// Update applies the changes: all or none.
func (c *Conn) Update(t *Table, changes []Change) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	table := &nftables.Table{Name: t.Name, Family: nftables.TableFamilyINet}
	for _, ch := range changes {
		if err := c.queue(t, table, ch); err != nil {
			c.discard()
			return err
		}
	}
	if err := c.w.flush(0); err != nil {
		return fmt.Errorf("update nft table %s: %w", t.Name, err)
	}
	return nil
}

func (c *Conn) queue(t *Table, table *nftables.Table, ch Change) error {
	s, err := t.set(ch.Set)
	if err != nil {
		return err
	}
	set, err := s.kernel(table)
	if err != nil {
		return err
	}
	remove, err := s.kernelElements(ch.Remove)
	if err != nil {
		return err
	}
	add, err := s.kernelElements(ch.Add)
	if err != nil {
		return err
	}
	if len(remove) > 0 {
		if err := c.w.c.SetDeleteElements(set, remove); err != nil {
			return fmt.Errorf("nft set %s: %w", ch.Set, err)
		}
	}
	if len(add) > 0 {
		if err := c.w.c.SetAddElements(set, add); err != nil {
			return fmt.Errorf("nft set %s: %w", ch.Set, err)
		}
	}
	return nil
}

// Delete removes the table of that name; it is no error when there is none.
func (c *Conn) Delete(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.w.c.DelTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
	if err := c.w.flush(0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete nft table %s: %w", name, err)
	}
	return nil
}

// Exists reports whether there is an inet table of that name.
func (c *Conn) Exists(name string) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hasTable(name)
}

func (c *Conn) hasTable(name string) (bool, error) {
	tables, err := c.c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list nft tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == name }), nil
}

// has reports whether there is a set of that name. c.mu is held.
func (c *Conn) has(table *nftables.Table, set string) (bool, error) {
	if there, err := c.hasTable(table.Name); err != nil || !there {
		return false, err
	}
	sets, err := c.c.GetSets(table)
	if err != nil {
		return false, fmt.Errorf("list sets of nft table %s: %w", table.Name, err)
	}
	return slices.ContainsFunc(sets, func(s *nftables.Set) bool { return s.Name == set }), nil
}

// Elements reads the elements of a set or map of t as they are in the kernel;
// none when there is no such table or set.
func (c *Conn) Elements(t *Table, name string) ([]Element, error) {
	s, err := t.set(name)
	if err != nil {
		return nil, err
	}
	if s.Interval || s.verdicts() {
		return nil, fmt.Errorf("nft: set %s has intervals or verdicts", name)
	}
	table := &nftables.Table{Name: t.Name, Family: nftables.TableFamilyINet}
	c.mu.Lock()
	defer c.mu.Unlock()
	// The library's errors have no errno: look before asking.
	if there, err := c.has(table, name); err != nil || !there {
		return nil, err
	}
	set, err := s.kernel(table)
	if err != nil {
		return nil, err
	}
	found, err := c.c.GetSetElements(set)
	if err != nil {
		return nil, fmt.Errorf("list nft set %s: %w", name, err)
	}
	var out []Element
	for _, e := range found {
		out = append(out, Element{Key: unpack(s.Key, e.Key), Value: unpack(s.Value, e.Val)})
	}
	return out, nil
}

// unpack reads a concatenation; what is too short gives fewer fields.
func unpack(types []Type, b []byte) []string {
	var out []string
	for _, t := range types {
		width := t.width()
		if len(b) < width {
			return out
		}
		out = append(out, t.decode(b[:width]))
		b = b[min((width+3)&^3, len(b)):]
	}
	return out
}
