package daemon

import "testing"

// TestShownProxy: no password of a proxy is shown, however it is written.
func TestShownProxy(t *testing.T) {
	for proxy, want := range map[string]string{
		"":                           "",
		"http://p:3128":              "http://p:3128",
		"p:3128":                     "p:3128",
		"http://me:secret@p:3128":    "http://xxxxx:xxxxx@p:3128",
		"socks5://me@p":              "socks5://xxxxx:xxxxx@p",
		"me:secret@p:3128":           "xxxxx:xxxxx@p:3128",
		"http://me:50%secret@p:3128": "http://xxxxx:xxxxx@p:3128",
		"http://me:sec@ret/#@p/":     "http://xxxxx:xxxxx@p/",
		"me:sec://ret@p":             "xxxxx:xxxxx@p",
	} {
		if got := shownProxy(proxy); got != want {
			t.Errorf("%q is shown as %q, want %q", proxy, got, want)
		}
	}
}
