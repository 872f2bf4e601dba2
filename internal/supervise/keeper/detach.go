package keeper

// matcher finds the detach keys in what a client types. Keys that may be the
// beginning of the sequence are held back, and passed on in order as soon as
// they turn out not to be.
type matcher struct {
	keys    []byte
	matched int // keys[:matched] are held back
}

// filter returns what is to be passed on of data, and whether the sequence was
// completed; what was typed behind it is dropped, as is the sequence itself.
func (m *matcher) filter(data []byte) (pass []byte, detach bool) {
	if m.matched == 0 && indexByte(data, m.keys[0]) < 0 {
		return data, false
	}
	pass = make([]byte, 0, len(data)+m.matched)
	for _, b := range data {
		for m.matched > 0 && m.keys[m.matched] != b {
			// The sequence can have begun later within what is held back.
			next := m.shorter()
			pass = append(pass, m.keys[:m.matched-next]...)
			m.matched = next
		}
		if m.keys[m.matched] != b {
			pass = append(pass, b)
			continue
		}
		if m.matched++; m.matched == len(m.keys) {
			m.matched = 0
			return pass, true
		}
	}
	return pass, false
}

// shorter is the length of the longest proper suffix of what is held back that
// the sequence begins with.
func (m *matcher) shorter() int {
	for n := m.matched - 1; n > 0; n-- {
		if string(m.keys[:n]) == string(m.keys[m.matched-n:m.matched]) {
			return n
		}
	}
	return 0
}

// rest returns what is held back at the end of the input.
func (m *matcher) rest() []byte {
	held := m.keys[:m.matched]
	m.matched = 0
	return held
}

func indexByte(b []byte, c byte) int {
	for i := range b {
		if b[i] == c {
			return i
		}
	}
	return -1
}
