package seccomp

import (
	"cmp"
	"math"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// cond compares one argument of a call.
type cond struct {
	arg         uint
	op          specs.LinuxSeccompOperator
	value, mask uint64
	narrow      bool // only the low 32 bits exist
}

// reduce fits conditions to the machine's width and drops those that always
// hold (a mask of nothing).
func (m machine) reduce(conds []cond) []cond {
	var out []cond
	for _, c := range conds {
		if !m.wide {
			c.narrow = true
			c.mask &= math.MaxUint32
		}
		c.value &= c.mask
		if c.mask != 0 {
			out = append(out, c)
		}
	}
	// Arguments in order, so that equal conditions make equal code.
	slices.SortStableFunc(out, func(a, b cond) int { return cmp.Compare(a.arg, b.arg) })
	return out
}

// span is a range of numbers, up to the next span's start, that share rules.
// The last rule of a span has no conditions.
type span struct {
	from   uint32
	rules  []rule
	weight int // how often the tree is expected to be asked for it
}

func (s span) constant() (uint32, bool) { return s.rules[0].verdict, len(s.rules[0].conds) == 0 }

// layout covers all numbers from 0 to the largest with spans. Filters are in
// ascending order of their numbers.
func layout(filters []filter, def, unknown uint32) []span {
	var out []span
	add := func(from uint32, rules []rule) {
		s := span{from: from, rules: rules}
		if len(out) > 0 {
			v, ok := s.constant()
			if w, also := out[len(out)-1].constant(); ok && also && v == w {
				return
			}
		}
		out = append(out, s)
	}
	always := func(v uint32) []rule { return []rule{{verdict: v}} }
	next := uint32(0)
	for i, f := range filters {
		base := uint32(0)
		if f.m.arch == specs.ArchX32 {
			base = x32Bit
		}
		if i > 0 {
			next = base
		}
		add(next, always(def))
		numbers := make([]uint32, 0, len(f.rules))
		for nr := range f.rules {
			numbers = append(numbers, nr)
		}
		slices.Sort(numbers)
		for _, nr := range numbers {
			if nr > next {
				add(next, always(def))
			}
			add(nr, settle(f.rules[nr], def))
			next = nr + 1
		}
		if f.named {
			if next <= f.last {
				add(next, always(def))
			}
			add(f.last+1, always(unknown))
		} else {
			add(next, always(unknown))
		}
	}
	for i := range out {
		// The kernel tries each number of its own table once when it loads
		// the program; the widths in that range are the best weights.
		end := uint32(math.MaxUint32)
		if i+1 < len(out) {
			end = out[i+1].from
		}
		out[i].weight = 1 + int(min(end-out[i].from, 64))
		if out[i].from >= x32Bit {
			out[i].weight = 1
		}
	}
	return out
}

// settle orders the rules of one call: a rule without conditions stands for the
// whole call; otherwise the default comes last.
func settle(rules []rule, def uint32) []rule {
	for _, r := range rules {
		if len(r.conds) == 0 {
			return []rule{r}
		}
	}
	return append(slices.Clone(rules), rule{verdict: def})
}

// rejectX32 kills x32 calls of a profile that does not cover x32. Number -1 is
// what a tracer sets to have a call skipped; it gets the default.
func rejectX32(spans []span, def uint32) []span {
	spans = append(spans, span{from: x32Bit, rules: []rule{{verdict: unix.SECCOMP_RET_KILL_THREAD}}, weight: 1})
	return append(spans, span{from: math.MaxUint32, rules: []rule{{verdict: def}}, weight: 1})
}

// entry is the code for one audit architecture.
type entry struct {
	audit uint32
	spans []span
}

// program is assembled from its end: every target is known when a jump to it is
// made. A label is an index into rev.
type program struct {
	rev []unix.SockFilter
	ret map[uint32]int // the latest RET of each verdict
}

const (
	offsetNr   = 0
	offsetArch = 4
	offsetArgs = 16
	maxJump    = 255
)

func (p *program) assemble(entries []entry) []unix.SockFilter {
	p.ret = map[uint32]int{}
	labels := make([]int, len(entries))
	for i := len(entries) - 1; i >= 0; i-- {
		top := p.tree(entries[i].spans)
		labels[i] = p.load(offsetNr, top)
	}
	next := p.give(unix.SECCOMP_RET_KILL_THREAD)
	for i := len(entries) - 1; i >= 0; i-- {
		next = p.jump(unix.BPF_JEQ, entries[i].audit, labels[i], next)
	}
	p.load(offsetArch, next)
	slices.Reverse(p.rev)
	return p.rev
}

func (p *program) emit(code uint16, k uint32, jt, jf uint8) int {
	p.rev = append(p.rev, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
	return len(p.rev) - 1
}

// near makes sure that a jump emitted now, or one instruction later, reaches to.
func (p *program) near(to int) int {
	far := len(p.rev) - to - 1
	if far < maxJump {
		return to
	}
	if in := p.rev[to]; in.Code == unix.BPF_RET|unix.BPF_K {
		return p.give(in.K)
	}
	return p.emit(unix.BPF_JMP|unix.BPF_JA, uint32(far), 0, 0)
}

// give returns the label of a RET that is near.
func (p *program) give(v uint32) int {
	if at, ok := p.ret[v]; ok && len(p.rev)-at-1 < maxJump {
		return at
	}
	p.ret[v] = p.emit(unix.BPF_RET|unix.BPF_K, v, 0, 0)
	return p.ret[v]
}

func (p *program) jump(op uint16, k uint32, yes, no int) int {
	yes = p.near(yes)
	no = p.near(no)
	n := len(p.rev)
	return p.emit(unix.BPF_JMP|op|unix.BPF_K, k, uint8(n-yes-1), uint8(n-no-1))
}

// load makes A the word at an offset and goes on at next.
func (p *program) load(offset uint32, next int) int {
	p.fall(next)
	return p.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0)
}

// fall makes next the instruction that follows the one emitted after it.
func (p *program) fall(next int) {
	if next != len(p.rev)-1 {
		p.emit(unix.BPF_JMP|unix.BPF_JA, uint32(len(p.rev)-next-1), 0, 0)
	}
}

// tree is a binary search for the number in A, split by weight.
func (p *program) tree(spans []span) int {
	if len(spans) == 1 {
		return p.leaf(spans[0].rules)
	}
	total := 0
	for _, s := range spans {
		total += s.weight
	}
	cut, best, sum := 1, math.MaxInt, 0
	for i, s := range spans[:len(spans)-1] {
		sum += s.weight
		if off := max(2*sum-total, total-2*sum); off < best {
			cut, best = i+1, off
		}
	}
	high := p.tree(spans[cut:])
	low := p.tree(spans[:cut])
	return p.jump(unix.BPF_JGE, spans[cut].from, high, low)
}

// leaf tries rules in order; the last has no conditions.
func (p *program) leaf(rules []rule) int {
	last := len(rules) - 1
	next := p.give(rules[last].verdict)
	for _, r := range slices.Backward(rules[:last]) {
		yes := p.give(r.verdict)
		for _, c := range slices.Backward(r.conds) {
			yes = p.test(c, yes, next)
		}
		next = yes
	}
	return next
}

// test compares an argument and goes to yes or no. seccomp_data is little
// endian on all machines here: the low word comes first.
func (p *program) test(c cond, yes, no int) int {
	low, high := uint32(c.value), uint32(c.value>>32)
	at := uint32(offsetArgs + 8*c.arg)
	switch c.op {
	case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual:
		yes, no = no, yes
	}
	switch c.op {
	case specs.OpEqualTo, specs.OpNotEqual, specs.OpMaskedEqual:
		if mask := uint32(c.mask); mask != 0 {
			yes = p.masked(at, mask, p.jump(unix.BPF_JEQ, low, yes, no))
		}
		if mask := uint32(c.mask >> 32); mask != 0 && !c.narrow {
			yes = p.masked(at+4, mask, p.jump(unix.BPF_JEQ, high, yes, no))
		}
		return yes
	}
	op := uint16(unix.BPF_JGT)
	if c.op == specs.OpGreaterEqual || c.op == specs.OpLessThan {
		op = unix.BPF_JGE
	}
	next := p.load(at, p.jump(op, low, yes, no))
	if c.narrow {
		return next
	}
	next = p.jump(unix.BPF_JEQ, high, next, no)
	return p.load(at+4, p.jump(unix.BPF_JGT, high, yes, next))
}

func (p *program) masked(at, mask uint32, next int) int {
	if mask != math.MaxUint32 {
		p.fall(next)
		next = p.emit(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, mask, 0, 0)
	}
	return p.load(at, next)
}
