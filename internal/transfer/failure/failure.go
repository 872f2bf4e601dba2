// Package failure owns what goes wrong between the engine and registries: the
// kinds of their answers, whether another try may help, and dockerd's words for
// them. Text that a server sent is made fit for a terminal here.
package failure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

	"github.com/wherry-engine/wherry/internal/transfer/challenge"
)

// Error is an error with a kind, whose words are only its cause's.
type Error struct {
	Kind, Cause error
	// Unreachable: nobody answered at all. Temporary: it may go better soon.
	// Told: the server said when, and was waited for, or for longer than that.
	Unreachable, Temporary, Told bool
}

func (f *Error) Error() string   { return f.Cause.Error() }
func (f *Error) Unwrap() []error { return []error{f.Kind, f.Cause} }

// Unreachable tells whether nobody answered.
func Unreachable(err error) bool {
	var f *Error
	return errors.As(err, &f) && f.Unreachable
}

// Temporary tells whether the same request may go better soon.
func Temporary(err error) bool {
	var f *Error
	return errors.As(err, &f) && (f.Temporary || f.Unreachable)
}

// Told tells whether a server said when to come again; to ask it sooner is no use.
func Told(err error) bool {
	var f *Error
	return errors.As(err, &f) && f.Told
}

// Answered tells whether err is what a registry said.
func Answered(err error) bool {
	var a *answer
	return errors.As(err, &a)
}

// NoAnswer words a request to base that got no response as dockerd does, which
// asks /v2/ first.
func NoAnswer(base *url.URL, err error) error {
	var u *url.Error
	if !errors.As(err, &u) {
		return &Error{Kind: errdefs.ErrInternal, Cause: err, Unreachable: true}
	}
	if errors.Is(u.Err, context.Canceled) {
		return err
	}
	var op *net.OpError
	dial := errors.As(u.Err, &op) && op.Op == "dial"
	return &Error{Kind: errdefs.ErrInternal, Unreachable: dial, Temporary: true,
		Cause: &url.Error{Op: u.Op, URL: base.JoinPath("v2").String() + "/", Err: u.Err}}
}

// answer is an error that a registry answered with.
type answer struct {
	status  int
	code    string // as in DENIED; "" if there was none
	blob    bool   // said of a blob, not of a manifest
	message string
}

func (a *answer) Error() string {
	if a.code == "" {
		return a.message
	}
	return strings.ToLower(strings.ReplaceAll(a.code, "_", " ")) + ": " + a.message
}

// MaxBody is how much of an error is read.
const MaxBody = 64 << 10

// slow is how long an error may take to be read; what came until then counts.
var slow = 10 * time.Second

// Read reads a response that is no success, and closes it.
func Read(resp *http.Response) error {
	enough := time.AfterFunc(slow, func() { resp.Body.Close() })
	defer enough.Stop()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, MaxBody))
	resp.Body.Close()
	a := &answer{status: resp.StatusCode}
	var doc struct {
		Errors []struct{ Code, Message string }
		// What token servers say instead.
		Details, Message, Error string
		Description             string `json:"error_description"`
	}
	if json.Unmarshal(body, &doc) == nil {
		switch {
		case len(doc.Errors) > 0:
			a.code, a.message = Clean(doc.Errors[0].Code), Clean(doc.Errors[0].Message)
			if a.message == "" {
				a.message = strings.ToLower(strings.ReplaceAll(a.code, "_", " "))
			}
		case doc.Details != "":
			a.message = Clean(doc.Details)
		case doc.Description != "":
			a.message = Clean(doc.Description)
		case doc.Message != "":
			a.message = Clean(doc.Message)
		}
	}
	for _, c := range challenge.Parse(resp.Header) {
		if resp.StatusCode == http.StatusUnauthorized && c.Params["error"] == "insufficient_scope" {
			a.code, a.message = "DENIED", "requested access to the resource is denied"
		}
	}
	if a.code == "" && (resp.StatusCode >= 500 || a.message == "") {
		switch resp.StatusCode {
		case http.StatusUnauthorized:
			a.code, a.message = "UNAUTHORIZED", "authentication required"
		case http.StatusForbidden:
			a.code, a.message = "DENIED", "requested access to the resource is denied"
		case http.StatusTooManyRequests:
			a.code, a.message = "TOOMANYREQUESTS", "too many requests"
		default:
			a.message = "received unexpected HTTP status: " + resp.Status
		}
	} else if a.code == "" && resp.StatusCode == http.StatusUnauthorized {
		a.code = "UNAUTHORIZED"
	}
	f := &Error{Cause: a, Kind: errdefs.ErrInternal}
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		f.Kind = errdefs.ErrUnauthenticated
	case resp.StatusCode == http.StatusForbidden:
		f.Kind = errdefs.ErrPermissionDenied
	case resp.StatusCode == http.StatusNotFound:
		f.Kind = errdefs.ErrNotFound
	case resp.StatusCode == http.StatusTooManyRequests:
		f.Kind, f.Temporary = errdefs.ErrResourceExhausted, true
		f.Told = resp.Header.Get("Retry-After") != ""
		if after := resp.Header.Get("Retry-After"); after != "" {
			a.message += " (try again after " + Clean(after) + suffixSeconds(after) + ")"
		}
	case resp.StatusCode >= 500:
		f.Temporary, f.Told = true, resp.Header.Get("Retry-After") != ""
	case resp.StatusCode >= 400:
		f.Kind = errdefs.ErrInvalidArgument
	}
	return f
}

func suffixSeconds(after string) string {
	if strings.Trim(after, "0123456789") == "" {
		return " s"
	}
	return ""
}

const maxText = 1000

// Clean makes a text from the network fit for a terminal.
func Clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' || unicode.Is(unicode.Bidi_Control, r) {
			return -1
		}
		return r
	}, text)
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "..."
	}
	return strings.TrimSpace(text)
}

// OfBlob makes a registry's refusal one of a blob, which it names if the
// registry said nothing.
func OfBlob(err error, digest string) error {
	var a *answer
	if errors.As(err, &a) && !a.blob {
		a.blob = true
		if a.code == "" {
			a.message = "blob " + digest + ": " + a.message
		}
	}
	return err
}

// OfPull puts a registry's refusal into dockerd's words about a pull.
func OfPull(err error, ref reference.Named) error {
	var a *answer
	if !errors.As(err, &a) {
		return About(NotAsking(err), ref)
	}
	switch {
	case a.code == "DENIED" || a.status == http.StatusForbidden:
		return notFound("pull access denied for %s, repository does not exist or may require 'docker login': %v", reference.FamiliarName(ref), a)
	case a.code == "MANIFEST_UNKNOWN" || a.code == "" && !a.blob && a.status == http.StatusNotFound:
		return notFound("manifest for %s not found: %v", reference.FamiliarString(ref), a)
	case a.code == "NAME_UNKNOWN":
		return notFound("repository %s not found: %v", reference.FamiliarName(ref), a)
	}
	return About(NotAsking(err), ref)
}

// About names the image in an error that does not, unless nobody was reached:
// that error names the address, in dockerd's words.
func About(err error, ref reference.Named) error {
	name := reference.FamiliarString(ref)
	if err == nil || Unreachable(err) || errors.Is(err, context.Canceled) || strings.Contains(err.Error(), name) || strings.Contains(err.Error(), reference.FamiliarName(ref)+" ") {
		return err
	}
	return &aboutError{name, err}
}

// aboutError is an error about an image; its kind is that of its cause.
type aboutError struct {
	image string
	cause error
}

func (n *aboutError) Error() string { return n.image + ": " + n.cause.Error() }
func (n *aboutError) Unwrap() error { return n.cause }

// NotAsking takes the kind from a registry's 401: as a status of the engine's
// own it would make docker's client ask for a password, for the wrong server.
func NotAsking(err error) error {
	if errdefs.IsUnauthorized(err) {
		return errdefs.ErrInternal.WithMessage(err.Error())
	}
	return err
}

func notFound(format string, args ...any) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf(format, args...))
}
