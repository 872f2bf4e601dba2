package nft

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// Replace makes the kernel's table of that name this one, in a single
// transaction. What is there already is left alone: only elements and rules
// that differ are written. That is no matter of speed. The kernel makes rules
// and the elements of a set of concatenated intervals valid one after the
// other, so for some milliseconds packets meet the rules of a table that is new
// as a whole with such sets empty; the elements of a set that was there before
// change at once.
//
// A table of another shape (other sets or base chains, as an engine of another
// version may have left) is replaced as a whole.
func (c *Conn) Replace(t *Table) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	amend := true
	var err error
	for range 4 {
		var there bool
		if there, err = c.hasTable(t.Name); err != nil {
			return err
		}
		table := &nftables.Table{Name: t.Name, Family: nftables.TableFamilyINet}
		if there && amend {
			var same bool
			if same, err = c.amend(t, table); err == nil && same {
				return nil
			}
			amend = false // as a whole, then
			if errors.Is(err, unix.EPERM) {
				return foreign(err)
			}
			continue
		}
		if there {
			c.w.c.DelTable(table)
		}
		err = c.write(t, table, c.flags)
		switch {
		case c.flags != 0 && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)):
			c.flags = 0
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EEXIST):
			// It came or went meanwhile.
		case errors.Is(err, unix.EPERM):
			return foreign(err)
		default:
			return err
		}
	}
	return err
}

func foreign(err error) error { return fmt.Errorf("%w: another process owns the table", err) }

// amend writes what differs between the kernel's table and t. It reports
// whether the table has the shape of t; if not, nothing is written. c.mu is
// held.
func (c *Conn) amend(t *Table, table *nftables.Table) (bool, error) {
	sets, same, err := c.sameSets(t, table)
	if err != nil || !same {
		return false, err
	}
	chains, have, same, err := c.sameChains(t, table)
	if err != nil || !same {
		return false, err
	}
	c.w.c.AddTable(table) // takes it, if it is nobody's, and fails if it is another's
	for _, chain := range chains {
		if !have[chain.Name] {
			c.w.c.AddChain(chain) // before what leads there
		}
	}
	for i := range t.Sets {
		if err = c.amendSet(&t.Sets[i], sets[t.Sets[i].Name]); err != nil {
			c.discard()
			return false, err
		}
	}
	for i := range t.Chains {
		var old []*nftables.Rule
		if have[chains[i].Name] {
			old, err = c.c.GetRules(table, chains[i])
		}
		if err == nil && !sameRules(t.Chains[i].Rules, old) {
			c.w.c.FlushChain(chains[i])
			err = c.addRules(t, &t.Chains[i], sets, chains[i])
		}
		if err != nil {
			c.discard()
			return false, fmt.Errorf("nft chain %s: %w", t.Chains[i].Name, err)
		}
	}
	for name := range have { // nothing leads there any more
		if !slices.ContainsFunc(chains, func(ch *nftables.Chain) bool { return ch.Name == name }) {
			c.w.c.FlushChain(&nftables.Chain{Name: name, Table: table})
			c.w.c.DelChain(&nftables.Chain{Name: name, Table: table})
		}
	}
	if err := c.w.flush(c.flags); err != nil {
		return false, fmt.Errorf("update nft table %s: %w", t.Name, err)
	}
	return true, nil
}

// sameSets reports whether the kernel has the sets of t and no others, and
// gives them by name.
func (c *Conn) sameSets(t *Table, table *nftables.Table) (map[string]*nftables.Set, bool, error) {
	found, err := c.c.GetSets(table)
	if err != nil {
		return nil, false, fmt.Errorf("list sets of nft table %s: %w", t.Name, err)
	}
	sets := map[string]*nftables.Set{}
	for i := range t.Sets {
		s, err := t.Sets[i].kernel(table)
		if err != nil {
			return nil, false, err
		}
		s.ID = uint32(i + 1)
		sets[s.Name] = s
	}
	if len(found) != len(sets) {
		return nil, false, nil
	}
	for _, have := range found {
		s := sets[have.Name]
		if s != nil && isVerdicts(s) && isVerdicts(have) {
			continue // of one kind of key
		}
		if s == nil || have.Interval != s.Interval || have.IsMap != s.IsMap || have.KeyType.GetNFTMagic() != s.KeyType.GetNFTMagic() ||
			have.IsMap && have.DataType.GetNFTMagic() != s.DataType.GetNFTMagic() {
			return nil, false, nil
		}
	}
	return sets, true, nil
}

// sameChains reports whether the kernel has the base chains of t, at the same
// hooks, and no others. It gives t's chains in t's order, and the names of those
// that the kernel has.
func (c *Conn) sameChains(t *Table, table *nftables.Table) (chains []*nftables.Chain, have map[string]bool, same bool, err error) {
	all, err := c.c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, nil, false, fmt.Errorf("list chains of nft table %s: %w", t.Name, err)
	}
	have = map[string]bool{}
	base := map[string]*nftables.Chain{}
	for _, ch := range all {
		if ch.Table.Name != t.Name {
			continue
		}
		have[ch.Name] = true
		if ch.Hooknum != nil {
			base[ch.Name] = ch
		}
	}
	for i := range t.Chains {
		k := t.Chains[i].kernel(table)
		chains = append(chains, k)
		is := base[k.Name]
		if (is != nil) != (k.Hooknum != nil) {
			return nil, nil, false, nil
		}
		if is != nil && (is.Type != k.Type || *is.Hooknum != *k.Hooknum || *is.Priority != *k.Priority || is.Policy == nil || *is.Policy != *k.Policy) {
			return nil, nil, false, nil
		}
		delete(base, k.Name)
	}
	return chains, have, len(base) == 0, nil
}

// amendSet queues what differs in the elements of a set.
func (c *Conn) amendSet(s *Set, set *nftables.Set) error {
	want, err := s.kernelElements(s.Elements)
	if err != nil {
		return err
	}
	have, err := c.c.GetSetElements(set)
	if err != nil {
		return fmt.Errorf("list nft set %s: %w", s.Name, err)
	}
	for i := range have {
		if !s.verdicts() {
			break
		}
		if err := readVerdict(&have[i]); err != nil {
			return err
		}
	}
	if remove := lacking(have, want); len(remove) > 0 {
		// The kernel gives the ends of intervals in its own order, and finds them
		// in that in which nft names them: the one that ends here before the one
		// that begins here.
		slices.SortFunc(remove, func(a, b nftables.SetElement) int {
			order := bytes.Compare(a.Key, b.Key)
			if order == 0 && a.IntervalEnd != b.IntervalEnd {
				order = 1
				if a.IntervalEnd {
					order = -1
				}
			}
			return order
		})
		if err := c.w.c.SetDeleteElements(set, remove); err != nil {
			return fmt.Errorf("nft set %s: %w", s.Name, err)
		}
	}
	if add := lacking(want, have); len(add) > 0 {
		if err := c.w.c.SetAddElements(set, add); err != nil {
			return fmt.Errorf("nft set %s: %w", s.Name, err)
		}
	}
	return nil
}

// lacking gives the elements of a that b does not have.
func lacking(a, b []nftables.SetElement) []nftables.SetElement {
	id := func(e nftables.SetElement) string {
		// Where the end is the beginning the kernel may leave it out.
		end := e.KeyEnd
		if bytes.Equal(end, e.Key) {
			end = nil
		}
		return fmt.Sprintf("%x %x %x %v %v", e.Key, end, e.Val, e.VerdictData, e.IntervalEnd)
	}
	there := map[string]bool{}
	for _, e := range b {
		there[id(e)] = true
	}
	var out []nftables.SetElement
	for _, e := range a {
		if !there[id(e)] {
			out = append(out, e)
		}
	}
	return out
}

// addRules queues the rules of a chain.
func (c *Conn) addRules(t *Table, ch *Chain, sets map[string]*nftables.Set, chain *nftables.Chain) error {
	for _, r := range ch.Rules {
		l := &lowering{table: t, sets: sets}
		for _, e := range r.Exprs {
			if err := e.lower(l); err != nil {
				return fmt.Errorf("%s: %w", e, err)
			}
		}
		rule := &nftables.Rule{Table: chain.Table, Chain: chain, Exprs: l.out}
		if r.Comment != "" {
			rule.UserData = userdata.AppendString(nil, userdata.TypeComment, r.Comment)
		}
		rule.UserData = append(rule.UserData, r.mark()...)
		c.w.c.AddRule(rule)
	}
	return nil
}

// typeMark is the type of a rule's user data that tells it from others: nft
// passes by what it does not know.
const typeMark userdata.Type = 0x77

// encoding goes up when rules of the same text are written in another way.
const encoding = "2 "

// mark is the user data that tells a rule from those of another text.
func (r *Rule) mark() []byte {
	h := sha256.New()
	h.Write([]byte(encoding))
	for _, e := range r.Exprs {
		fmt.Fprintf(h, "%s\n", e)
	}
	fmt.Fprintf(h, "%s", r.Comment)
	return userdata.Append(nil, typeMark, h.Sum(nil)[:8])
}

// sameRules compares rules with those that the kernel has. A rule that somebody
// else wrote has no mark.
func sameRules(want []Rule, have []*nftables.Rule) bool {
	return slices.EqualFunc(want, have, func(w Rule, h *nftables.Rule) bool {
		return bytes.HasSuffix(h.UserData, w.mark())
	})
}
