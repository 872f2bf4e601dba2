package id

import (
	"strings"
	"testing"
)

func TestNew(t *testing.T) {
	a, b := New(), New()
	if a == b || !Valid(a) || !Valid(b) || !strings.ContainsAny(a[:ShortLen], "abcdef") {
		t.Error(a, b)
	}
	if Short("sha256:"+a) != a[:12] || Short("abc") != "abc" {
		t.Error(Short("sha256:"+a), Short("abc"))
	}
}

func FuzzValidators(f *testing.F) {
	for _, s := range []string{"", "a", "ab", "../x", "a/b", "a\x00", "web-1.x_y", "-a", strings.Repeat("f", 64), strings.Repeat("a", 256)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if (ValidName(s) || Valid(s) || ValidPrefix(s)) && (strings.ContainsAny(s, "/\x00 \n") || strings.HasPrefix(s, ".") || len(s) > 255) {
			t.Errorf("%q passes", s)
		}
	})
}
