package logs

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"time"
	"unicode/utf8"
)

const hex = "0123456789abcdef"

// appendEntry appends one line of the file to b.
func appendEntry(b []byte, s Stream, line []byte, newline bool, attrs []byte, stamp []byte) []byte {
	b = append(b, `{"log":"`...)
	b = appendText(b, line)
	if newline {
		b = append(b, `\n`...)
	}
	if s == Stderr {
		b = append(b, `","stream":"stderr"`...)
	} else {
		b = append(b, `","stream":"stdout"`...)
	}
	if len(attrs) > 0 {
		b = append(b, `,"attrs":`...)
		b = append(b, attrs...)
	}
	b = append(b, `,"time":"`...)
	b = append(b, stamp...)
	return append(b, "\"}\n"...)
}

// appendText escapes as docker's json-file does: what could matter inside
// HTML or JavaScript too, and every control character but \n and \r by number.
func appendText(b, s []byte) []byte {
	start := 0
	for i := 0; i < len(s); {
		if len(s)-i >= 8 {
			n := plainBytes(binary.LittleEndian.Uint64(s[i:]))
			if i += n; n == 8 {
				continue
			}
		}
		c := s[i]
		if c < utf8.RuneSelf {
			if plain[c] {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			switch c {
			case '\\', '"':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			default:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRune(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(b, s[start:i]...)
			b = append(b, `\ufffd`...)
			start = i + 1
		case r == '\u2028' || r == '\u2029':
			b = append(b, s[start:i]...)
			b = append(b, `\u202`...)
			b = append(b, hex[r&15])
			start = i + n
		}
		i += n
	}
	return append(b, s[start:]...)
}

// plainBytes says how many of the first bytes of a word are plain: most of the
// time of a busy log goes into this question, so that eight are asked at once.
func plainBytes(x uint64) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	zero := func(v uint64) uint64 { return (v - ones) &^ v & tops } // exact for the lowest byte found
	other := x&tops | (x-ones*' ')&^x&tops | zero(x^ones*'"') | zero(x^ones*'\\') | zero(x^ones*'&') |
		zero((x|ones*2)^ones*'>') // < is > without that bit
	return bits.TrailingZeros64(other) / 8
}

// plain says which ASCII characters need no escape.
var plain = func() (t [utf8.RuneSelf]bool) {
	for c := byte(' '); c < utf8.RuneSelf; c++ {
		switch c {
		case '\\', '"', '<', '>', '&':
		default:
			t[c] = true
		}
	}
	return t
}()

func appendStamp(b []byte, at time.Time) []byte {
	return at.UTC().AppendFormat(b, time.RFC3339Nano)
}

// encodeAttrs gives the attributes as a JSON object with sorted keys, or nil.
func encodeAttrs(attrs map[string]string) []byte {
	if len(attrs) == 0 {
		return nil
	}
	keys := make([]string, 0, len(attrs))
	for k := range attrs {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	b := []byte{'{'}
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = appendText(b, []byte(k))
		b = append(b, `":"`...)
		b = appendText(b, []byte(attrs[k]))
		b = append(b, '"')
	}
	return append(b, '}')
}
