// Package challenge owns the reading of WWW-Authenticate headers.
package challenge

import (
	"net/http"
	"strings"
)

// Challenge is one scheme that a WWW-Authenticate header offers.
type Challenge struct {
	Scheme string // lower case
	Params map[string]string
}

// Parse reads the headers; what cannot be read is left out.
func Parse(h http.Header) []Challenge {
	var out []Challenge
	for _, text := range h.Values("WWW-Authenticate") {
		if len(text) > 8<<10 {
			continue
		}
		scheme, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
		c := Challenge{strings.ToLower(scheme), map[string]string{}}
		for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimLeft(rest, ", \t") {
			var key, value string
			var ok bool
			if key, rest, ok = strings.Cut(rest, "="); !ok {
				break
			}
			if strings.HasPrefix(rest, `"`) {
				value, rest = quoted(rest[1:])
			} else {
				value, rest, _ = strings.Cut(rest, ",")
			}
			c.Params[strings.ToLower(strings.TrimSpace(key))] = value
		}
		out = append(out, c)
	}
	return out
}

// quoted reads up to the closing quote.
func quoted(s string) (value, rest string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		case '"':
			return b.String(), s[i+1:]
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}
