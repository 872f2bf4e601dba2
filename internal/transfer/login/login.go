// Package login owns who the engine is to a registry: the credentials that one
// server may get, what its challenges ask for, and the tokens that are got with
// them. What is secret goes to that server and the token server that it names,
// if that is one of https or the registry's own.
package login

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/wherry-engine/wherry/internal/transfer/agent"
	"github.com/wherry-engine/wherry/internal/transfer/challenge"
	"github.com/wherry-engine/wherry/internal/transfer/failure"
)

// clientID is what token servers get to know of the program.
const clientID = "wherry"

// Server is whom a login is for.
type Server struct {
	Base        *url.URL // its address
	Credentials Credentials
	Client      *http.Client // to ask it and its token server with
	UserAgent   string
}

// Login is the state of being known to a server, for one set of scopes. It is
// safe for use by several goroutines.
type Login struct {
	at     Server
	scopes []string

	mu      sync.Mutex
	header  string // Authorization; "" until the endpoint asked for it
	expires time.Time
	asked   *challenge.Challenge
	refresh string // a refresh token, if the server gave one
}

// New returns a login that has asked nobody anything yet.
func New(at Server, scopes ...string) *Login { return &Login{at: at, scopes: scopes} }

// Authorization returns what to send, renewed when it is about to expire.
func (l *Login) Authorization(ctx context.Context) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.at.Credentials.Bearer != "" {
		return "Bearer " + l.at.Credentials.Bearer, nil
	}
	if l.header != "" && l.asked != nil && l.asked.Scheme == "bearer" && time.Now().After(l.expires) {
		if err := l.token(ctx); err != nil {
			return "", err
		}
	}
	return l.header, nil
}

// Need adds a scope; a token that was got without it is given up.
func (l *Login) Need(scope string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Contains(l.scopes, scope) {
		l.scopes = append(l.scopes, scope)
		l.expires = time.Time{}
	}
}

// Answer does what a 401 asks for; used is the header that was refused. It
// tells whether another try is worth it.
func (l *Login) Answer(ctx context.Context, h http.Header, used string) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.header != used {
		return true, nil // somebody else got a new one meanwhile
	}
	if l.at.Credentials.Bearer != "" {
		return false, nil
	}
	offers := challenge.Parse(h)
	for _, scheme := range []string{"bearer", "basic"} {
		i := slices.IndexFunc(offers, func(c challenge.Challenge) bool { return c.Scheme == scheme })
		if i < 0 {
			continue
		}
		if scheme == "basic" {
			if used != "" {
				return false, nil // refused
			}
			if l.at.Credentials.User == "" {
				return false, &failure.Error{Kind: errdefs.ErrUnauthenticated, Cause: &url.Error{Op: "Get", URL: l.at.Base.JoinPath("v2").String() + "/", Err: errNoBasic}}
			}
			l.header = basic(l.at.Credentials.User, l.at.Credentials.Password)
			return true, nil
		}
		if offers[i].Params["error"] == "insufficient_scope" && used != "" {
			return false, nil // the token was good, it just does not reach that far
		}
		l.asked = &offers[i]
		if err := l.token(ctx); err != nil {
			return false, err
		}
		return l.header != used, nil
	}
	return false, nil
}

// Identity is the token that a server gave in place of the password, or "".
func (l *Login) Identity() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refresh
}

var errNoBasic = fmt.Errorf("no basic auth credentials")

func basic(user, password string) string {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(user, password)
	return r.Header.Get("Authorization")
}

// realm checks where a challenge sends the credentials: to a server of https,
// or the registry's own where that has none.
func (l *Login) realm() (*url.URL, error) {
	text := l.asked.Params["realm"]
	u, err := l.at.Base.Parse(text)
	if err != nil || text == "" || u.Host == "" {
		return nil, invalid("registry %s names no token server: realm %q", l.at.Base.Host, failure.Clean(text))
	}
	switch {
	case u.User != nil:
		return nil, invalid("registry %s names a token server with credentials in its address", l.at.Base.Host)
	case u.Scheme == "https":
	case u.Scheme == "http" && l.at.Base.Scheme == "http":
		if !strings.EqualFold(u.Hostname(), l.at.Base.Hostname()) && !l.at.Credentials.None() {
			return nil, invalid("refusing to send credentials for %s to %s by plain http", l.at.Base.Host, u.Host)
		}
	default:
		return nil, invalid("registry %s names the token server %s, which is not https", l.at.Base.Host, failure.Clean(u.Redacted()))
	}
	return u, nil
}

// stay follows redirects to the same server only.
func stay(req *http.Request, via []*http.Request) error {
	if !agent.SameOrigin(via[0].URL, req.URL) {
		return fmt.Errorf("refusing to send a refresh token on to %s", agent.Origin(req.URL))
	}
	return agent.Redirect(req, via)
}

// Bounds on a token server's answer.
const (
	maxToken = 1 << 20
	slow     = time.Minute
	maxAge   = 24 * 60 * 60 // seconds that a token is believed to be good
)

// token gets a token for the scopes. The caller holds l.mu.
func (l *Login) token(ctx context.Context) error {
	u, err := l.realm()
	if err != nil {
		return err
	}
	scopes := l.scopes
	if len(scopes) == 0 && l.asked.Params["scope"] != "" {
		scopes = strings.Fields(l.asked.Params["scope"])
	}
	refresh := l.at.Credentials.Refresh
	if refresh == "" {
		refresh = l.refresh
	}
	asking, cancel := context.WithTimeoutCause(ctx, slow, fmt.Errorf("it takes longer than %s", slow))
	defer cancel()
	var req *http.Request
	if refresh != "" {
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "client_id": {clientID},
			"service": {l.asked.Params["service"]}, "scope": {strings.Join(scopes, " ")}}
		req, err = http.NewRequestWithContext(asking, http.MethodPost, u.String(), strings.NewReader(form.Encode()))
		if err == nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
	} else {
		q := u.Query()
		if s := l.asked.Params["service"]; s != "" {
			q.Set("service", s)
		}
		for _, s := range scopes {
			q.Add("scope", s)
		}
		if l.at.Credentials.User != "" {
			q.Set("account", l.at.Credentials.User)
			q.Set("client_id", clientID)
			if len(l.scopes) == 0 {
				q.Set("offline_token", "true") // a login: whoever logs in wants to stay
			}
		}
		u.RawQuery = q.Encode()
		req, err = http.NewRequestWithContext(asking, http.MethodGet, u.String(), nil)
		if err == nil && l.at.Credentials.User != "" {
			req.SetBasicAuth(l.at.Credentials.User, l.at.Credentials.Password)
		}
	}
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", l.at.UserAgent)
	client := *l.at.Client
	if refresh != "" {
		client.CheckRedirect = stay // the token is in the body, which some redirects repeat
	}
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() == nil && asking.Err() != nil {
			return tooSlow(u, context.Cause(asking))
		}
		return failure.NoAnswer(l.at.Base, err)
	}
	if resp.StatusCode != http.StatusOK {
		return failure.Read(resp)
	}
	defer resp.Body.Close()
	var t struct {
		Token   string
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
		Expires int    `json:"expires_in"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxToken)).Decode(&t); err != nil {
		if cause := context.Cause(asking); ctx.Err() == nil && (cause != nil || errors.Is(err, agent.ErrIdle)) {
			return tooSlow(u, cmp.Or(cause, err))
		}
		return invalid("token server %s: %v", u.Host, err)
	}
	if t.Token == "" {
		t.Token = t.Access
	}
	if t.Token == "" {
		return invalid("authorization server %s did not include a token in the response", u.Host)
	}
	l.header = "Bearer " + t.Token
	if t.Refresh != "" {
		l.refresh = t.Refresh
	}
	l.expires = time.Now().Add(time.Duration(min(max(t.Expires, 60), maxAge))*time.Second - 10*time.Second)
	return nil
}

func tooSlow(u *url.URL, cause error) error {
	return &failure.Error{Kind: errdefs.ErrInternal, Cause: fmt.Errorf("token server %s: %w", u.Host, cause), Temporary: true}
}
