package change

import "strings"

type pair struct{ key, value string }

// split cuts a text at blanks outside of quotes; quotes and backslashes stay.
func split(text string) ([]string, error) {
	var out []string
	var b strings.Builder
	var quote byte
	for i := 0; i < len(text); i++ {
		ch := text[i]
		switch {
		case ch == '\\' && quote != '\'' && i+1 < len(text):
			b.WriteByte(ch)
			i++
			b.WriteByte(text[i])
			continue
		case quote != 0:
			if ch == quote {
				quote = 0
			}
		case ch == '\'' || ch == '"':
			quote = ch
		case ch == ' ' || ch == '\t':
			if b.Len() > 0 {
				out = append(out, b.String())
				b.Reset()
			}
			continue
		}
		b.WriteByte(ch)
	}
	if quote != 0 {
		return nil, invalid("unexpected end of statement while looking for matching %s-quote", map[byte]string{'"': "double", '\'': "single"}[quote])
	}
	if b.Len() > 0 {
		out = append(out, b.String())
	}
	return out, nil
}

func words(text string, c *config) ([]string, error) {
	raw, err := split(text)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, w := range raw {
		v, err := expand(w, c)
		if err != nil {
			return nil, err
		}
		out = append(out, strings.Fields(v)...)
	}
	return out, nil
}

// pairs reads "k=v k2=v2", or the old form "k the whole rest".
func pairs(name, text string, c *config) ([]pair, error) {
	raw, err := split(text)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(raw[0], "=") {
		if len(raw) < 2 {
			return nil, invalid("%s must have two arguments", name)
		}
		v, err := expand(strings.TrimSpace(text[len(raw[0]):]), c)
		return []pair{{raw[0], v}}, err
	}
	var out []pair
	for _, w := range raw {
		k, v, ok := strings.Cut(w, "=")
		if !ok {
			return nil, invalid("Syntax error - can't find = in %q. Must be of the form: name=value", w)
		}
		if k, err = expand(k, c); err != nil {
			return nil, err
		}
		if k == "" {
			return nil, invalid("%s names can not be blank", name)
		}
		if v, err = expand(v, c); err != nil {
			return nil, err
		}
		out = append(out, pair{k, v})
	}
	return out, nil
}

// expand removes quotes and replaces $NAME, ${NAME}, ${NAME:-word} and
// ${NAME:+word} by the image's environment.
func expand(text string, c *config) (string, error) {
	var b strings.Builder
	var quote byte
	for i := 0; i < len(text); i++ {
		ch := text[i]
		switch {
		case ch == '\\' && quote != '\'' && i+1 < len(text):
			i++
			if quote == '"' && !strings.ContainsRune(`"$\`, rune(text[i])) {
				b.WriteByte('\\')
			}
			b.WriteByte(text[i])
		case quote != 0 && ch == quote:
			quote = 0
		case quote == 0 && (ch == '\'' || ch == '"'):
			quote = ch
		case ch == '$' && quote != '\'':
			v, n, err := variable(text[i+1:], c)
			if err != nil {
				return "", err
			}
			b.WriteString(v)
			i += n
		default:
			b.WriteByte(ch)
		}
	}
	return b.String(), nil
}

// variable reads the text after a "$" and returns its value and length.
func variable(text string, c *config) (string, int, error) {
	if strings.HasPrefix(text, "{") {
		end := strings.IndexByte(text, '}')
		if end < 0 {
			return "", 0, invalid("syntax error: missing '}'")
		}
		name, word, op := text[1:end], "", ""
		for _, o := range []string{":-", ":+"} {
			if n, w, ok := strings.Cut(name, o); ok {
				name, word, op = n, w, o
				break
			}
		}
		if name == "" || nameLen(name) != len(name) {
			return "", 0, invalid("failed to process %q: unsupported modifier or bad name", "$"+text[:end+1])
		}
		v := lookup(c, name)
		if op == ":-" && v == "" || op == ":+" && v != "" {
			v = word
		}
		return v, end + 1, nil
	}
	n := nameLen(text)
	if n == 0 {
		return "$", 0, nil
	}
	return lookup(c, text[:n]), n, nil
}

func nameLen(s string) int {
	for i := range len(s) {
		ch := s[i]
		if ch != '_' && (ch < 'a' || ch > 'z') && (ch < 'A' || ch > 'Z') && (i == 0 || ch < '0' || ch > '9') {
			return i
		}
	}
	return len(s)
}

func lookup(c *config, name string) string {
	for _, e := range c.Env {
		if k, v, ok := strings.Cut(e, "="); ok && k == name {
			return v
		}
	}
	return ""
}
