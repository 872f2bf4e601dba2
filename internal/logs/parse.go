package logs

import (
	"bytes"
	"errors"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

var errBadLine = errors.New("malformed log line")

// lineParser reads lines of a log file. It does not need a general JSON
// parser, and reuses its memory from line to line.
type lineParser struct {
	text  []byte
	word  []byte
	rest  []byte
	attrs map[string]string
	raw   []byte // that attrs was made of
}

// parse reads one line of the file. Unknown members are skipped.
func (p *lineParser) parse(line []byte) (Entry, error) {
	p.rest = line
	var e Entry
	seen := 0
	err := p.object(func(key []byte) error {
		switch string(key) {
		case "log":
			text, err := p.str(p.text[:0])
			p.text, e.Line = text, text
			return err
		case "stream":
			word, err := p.str(p.word[:0])
			p.word, e.Stream = word, streamName(word)
			return err
		case "time":
			seen++
			word, err := p.str(p.word[:0])
			p.word = word
			if err == nil {
				e.Time, err = time.Parse(time.RFC3339Nano, string(word))
			}
			return err
		case "attrs":
			attrs, err := p.attributes()
			e.Attrs = attrs
			return err
		}
		return p.skip(0)
	})
	if err != nil || seen != 1 || len(bytes.TrimSpace(p.rest)) > 0 {
		return Entry{}, errBadLine
	}
	e.Partial = len(e.Line) == 0 || e.Line[len(e.Line)-1] != '\n'
	return e, nil
}

func streamName(b []byte) string {
	switch string(b) {
	case "stdout":
		return "stdout"
	case "stderr":
		return "stderr"
	}
	return string(b)
}

// attributes reads an object of strings; that of the line before is returned
// again if it was the same.
func (p *lineParser) attributes() (map[string]string, error) {
	if len(p.raw) > 0 && bytes.HasPrefix(p.space(), p.raw) {
		p.rest = p.rest[len(p.raw):]
		return p.attrs, nil
	}
	before := p.space()
	attrs := map[string]string{}
	err := p.object(func(key []byte) error {
		k := string(key)
		v, err := p.str(nil)
		attrs[k] = string(v)
		return err
	})
	if err != nil {
		return nil, err
	}
	p.raw = append(p.raw[:0], before[:len(before)-len(p.rest)]...)
	p.attrs = attrs
	return attrs, nil
}

// space skips white space and returns the rest.
func (p *lineParser) space() []byte {
	p.rest = bytes.TrimLeft(p.rest, " \t\r\n")
	return p.rest
}

// eat skips one character, which must be c.
func (p *lineParser) eat(c byte) bool {
	if b := p.space(); len(b) == 0 || b[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

// object calls member for each member, with rest at its value.
func (p *lineParser) object(member func(key []byte) error) error {
	if !p.eat('{') {
		return errBadLine
	}
	if p.eat('}') {
		return nil
	}
	var tmp [64]byte
	for {
		key, err := p.str(tmp[:0])
		if err != nil || !p.eat(':') {
			return errBadLine
		}
		if err := member(key); err != nil {
			return err
		}
		if p.eat('}') {
			return nil
		}
		if !p.eat(',') {
			return errBadLine
		}
	}
}

// skip passes over a value of any kind.
func (p *lineParser) skip(depth int) error {
	b := p.space()
	if len(b) == 0 || depth > 100 {
		return errBadLine
	}
	switch b[0] {
	case '"':
		_, err := p.str(nil)
		return err
	case '{':
		return p.object(func([]byte) error { return p.skip(depth + 1) })
	case '[':
		p.rest = b[1:]
		if p.eat(']') {
			return nil
		}
		for {
			if err := p.skip(depth + 1); err != nil {
				return err
			}
			if p.eat(']') {
				return nil
			}
			if !p.eat(',') {
				return errBadLine
			}
		}
	}
	n := bytes.IndexAny(b, ",]} \t\r\n")
	if n <= 0 {
		return errBadLine
	}
	p.rest = b[n:]
	return nil
}

// str reads a string and appends it to b.
func (p *lineParser) str(b []byte) ([]byte, error) {
	if !p.eat('"') {
		return b, errBadLine
	}
	s := p.rest
	for {
		n := bytes.IndexAny(s, `"\`)
		if n < 0 {
			return b, errBadLine
		}
		b = append(b, s[:n]...)
		if s[n] == '"' {
			p.rest = s[n+1:]
			return b, nil
		}
		if n+1 >= len(s) {
			return b, errBadLine
		}
		c := s[n+1]
		s = s[n+2:]
		switch c {
		case '"', '\\', '/':
			b = append(b, c)
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'u':
			r, ok := hex4(s)
			if !ok {
				return b, errBadLine
			}
			s = s[4:]
			if utf16.IsSurrogate(r) {
				pair := rune(utf8.RuneError)
				if low, ok := lowSurrogate(s); ok {
					pair = utf16.DecodeRune(r, low)
				}
				if pair != utf8.RuneError {
					s = s[6:]
				}
				r = pair
			}
			b = utf8.AppendRune(b, r)
		default:
			return b, errBadLine
		}
	}
}

func lowSurrogate(s []byte) (rune, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	return hex4(s[2:])
}

func hex4(s []byte) (rune, bool) {
	if len(s) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range s[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}
