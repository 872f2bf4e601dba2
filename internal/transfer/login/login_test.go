package login

import (
	"net/url"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/internal/transfer/challenge"
)

// TestRealms: where credentials may be sent to, decided without sending any.
func TestRealms(t *testing.T) {
	const secret = "hunter2-secret"
	for _, c := range []struct {
		base, realm string
		ok          bool
	}{
		{"https://r.example", "https://r.example/token", true},
		{"https://r.example", "https://auth.example/token", true},
		{"https://r.example", "http://r.example/token", false},
		{"https://r.example", "http://169.254.169.254/latest", false},
		{"https://r.example", "ftp://r.example/", false},
		{"https://r.example", "https://u:p@r.example/", false},
		{"https://r.example", "", false},
		{"http://10.0.0.1:5000", "http://10.0.0.1:5001/token", true},
		{"http://10.0.0.1:5000", "http://10.0.0.2/token", false},
	} {
		base, err := url.Parse(c.base)
		if err != nil {
			t.Fatal(err)
		}
		l := &Login{at: Server{Base: base, Credentials: Credentials{User: "me", Password: secret}}, asked: &challenge.Challenge{Scheme: "bearer", Params: map[string]string{"realm": c.realm}}}
		if _, err := l.realm(); (err == nil) != c.ok {
			t.Errorf("%s asks to log in at %q: %v", c.base, c.realm, err)
		} else if err != nil && strings.Contains(err.Error(), secret) {
			t.Error("the error has the secret:", err)
		}
	}
}
