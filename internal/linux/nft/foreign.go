package nft

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// gates are the chains at the forward hook that the host's usual firewalls
// write: iptables' (which ufw and docker use) and firewalld's. A chain of
// somebody's own is left alone.
var gates = []struct {
	family nftables.TableFamily
	table  string
	chain  string
	after  string // a jump to this chain comes before ours
}{
	{nftables.TableFamilyIPv4, "filter", "FORWARD", "DOCKER-USER"},
	{nftables.TableFamilyIPv6, "filter", "FORWARD", "DOCKER-USER"},
	{nftables.TableFamilyINet, "firewalld", "filter_FORWARD", ""},
}

// Pass lets the forward chains of the host's firewalls pass what comes from or
// goes to these links: a chain called name in each of their tables, jumped to
// first. Without links it is taken out again. What is as it should be is not
// touched.
func (c *Conn) Pass(name string, links []string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	chains, err := c.c.ListChains()
	if err != nil {
		return fmt.Errorf("list nft chains: %w", err)
	}
	find := func(family nftables.TableFamily, table, chain string) *nftables.Chain {
		at := slices.IndexFunc(chains, func(ch *nftables.Chain) bool {
			return ch.Table.Family == family && ch.Table.Name == table && ch.Name == chain
		})
		if at < 0 {
			return nil
		}
		return chains[at]
	}
	for _, g := range gates {
		base := find(g.family, g.table, g.chain)
		if base == nil || base.Hooknum == nil || *base.Hooknum != *nftables.ChainHookForward {
			continue
		}
		err := c.passOne(base, find(g.family, g.table, name), name, g.after, links)
		if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("%w: another process owns the table (firewalld does not with NftablesTableOwner=no)", err)
		}
		if err != nil {
			return fmt.Errorf("let containers pass chain %s of nft table %s: %w", g.chain, g.table, err)
		}
	}
	return nil
}

// passOne does it for one gate; mine is the chain of that name, if it is there.
func (c *Conn) passOne(base, mine *nftables.Chain, name, after string, links []string) error {
	table := &nftables.Table{Name: base.Table.Name, Family: base.Table.Family}
	rules, err := c.c.GetRules(table, base)
	if err != nil {
		return err
	}
	jump := slices.IndexFunc(rules, func(r *nftables.Rule) bool { return jumpsTo(r, name) })
	if len(links) == 0 && mine == nil && jump < 0 {
		return nil
	}
	before := slices.IndexFunc(rules, func(r *nftables.Rule) bool { return after != "" && jumpsTo(r, after) })
	if mine != nil && jump > before && len(links) > 0 {
		now, err := c.c.GetRules(table, mine)
		if err != nil {
			return err
		}
		if slices.Equal(linksOf(now), links) {
			return nil
		}
	}
	w := c.w.c
	ours := &nftables.Chain{Name: name, Table: table}
	if len(links) == 0 {
		for _, r := range rules {
			if jumpsTo(r, name) {
				if err := w.DelRule(&nftables.Rule{Table: table, Chain: base, Handle: r.Handle}); err != nil {
					return err
				}
			}
		}
		if mine != nil {
			w.FlushChain(ours)
			w.DelChain(ours)
		}
		return c.w.flush(0)
	}
	w.AddChain(ours)
	if mine != nil {
		w.FlushChain(ours)
	}
	for _, link := range links {
		for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
			data := make([]byte, 16)
			copy(data, link)
			w.AddRule(&nftables.Rule{Table: table, Chain: ours, Exprs: []expr.Any{
				&expr.Meta{Key: key, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data},
				&expr.Verdict{Kind: expr.VerdictAccept},
			}})
		}
	}
	if jump >= 0 && jump < before { // that one came later
		if err := w.DelRule(&nftables.Rule{Table: table, Chain: base, Handle: rules[jump].Handle}); err != nil {
			return err
		}
		jump = -1
	}
	if jump < 0 {
		r := &nftables.Rule{Table: table, Chain: base, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: name}}}
		if before >= 0 {
			r.Position = rules[before].Handle
			w.AddRule(r)
		} else {
			w.InsertRule(r)
		}
	}
	return c.w.flush(0)
}

func jumpsTo(r *nftables.Rule, chain string) bool {
	return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
		v, ok := e.(*expr.Verdict)
		return ok && (v.Kind == expr.VerdictJump || v.Kind == expr.VerdictGoto) && v.Chain == chain
	})
}

// linksOf reads back the links of a chain that passOne wrote.
func linksOf(rules []*nftables.Rule) []string {
	var out []string
	for i, r := range rules {
		if len(r.Exprs) != 3 {
			return nil
		}
		meta, ok1 := r.Exprs[0].(*expr.Meta)
		cmp, ok2 := r.Exprs[1].(*expr.Cmp)
		v, ok3 := r.Exprs[2].(*expr.Verdict)
		want := expr.MetaKeyIIFNAME
		if i%2 == 1 {
			want = expr.MetaKeyOIFNAME
		}
		if !ok1 || !ok2 || !ok3 || meta.Key != want || v.Kind != expr.VerdictAccept {
			return nil
		}
		link, _, _ := strings.Cut(string(cmp.Data), "\x00")
		if i%2 == 0 {
			out = append(out, link)
		} else if link != out[len(out)-1] {
			return nil
		}
	}
	if len(rules)%2 == 1 {
		return nil
	}
	return out
}

// Rejects lists the base chains of other tables that stand at the forward hook
// and may stop what their rules do not accept, as "family table chain", without
// those that Pass has opened under name. A packet has to pass every table: what
// one accepts another can still drop.
func (c *Conn) Rejects(own, name string) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	chains, err := c.c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nft chains: %w", err)
	}
	word := map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6"}
	var out []string
	for _, ch := range chains {
		family := word[ch.Table.Family]
		if family == "" || ch.Table.Name == own || ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward {
			continue
		}
		if ch.Type != nftables.ChainTypeFilter || ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop {
			continue
		}
		opened := slices.ContainsFunc(chains, func(x *nftables.Chain) bool {
			return x.Table.Family == ch.Table.Family && x.Table.Name == ch.Table.Name && x.Name == name
		})
		if !opened || name == "" {
			out = append(out, family+" "+ch.Table.Name+" "+ch.Name)
		}
	}
	return out, nil
}
