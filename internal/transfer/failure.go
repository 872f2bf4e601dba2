package transfer

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

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

	"github.com/wherry-engine/wherry/internal/transfer/challenge"
)

// failure is an error with a kind, whose words are only its cause's.
type failure struct {
	kind, cause error
	// unreachable: nobody answered at all. temporary: it may go better soon.
	unreachable, temporary bool
}

func (f *failure) Error() string   { return f.cause.Error() }
func (f *failure) Unwrap() []error { return []error{f.kind, f.cause} }

func unreachable(err error) bool {
	var f *failure
	return errors.As(err, &f) && f.unreachable
}

func temporary(err error) bool {
	var f *failure
	return errors.As(err, &f) && (f.temporary || f.unreachable)
}

// noAnswer words a request that got no response as dockerd does, which asks
// /v2/ first.
func noAnswer(e *endpoint, err error) error {
	var u *url.Error
	if !errors.As(err, &u) {
		return &failure{kind: errdefs.ErrInternal, cause: err, unreachable: true}
	}
	if errors.Is(u.Err, context.Canceled) {
		return err
	}
	var op *net.OpError
	dial := errors.As(u.Err, &op) && op.Op == "dial"
	return &failure{kind: errdefs.ErrInternal, unreachable: dial, temporary: true,
		cause: &url.Error{Op: u.Op, URL: e.base.JoinPath("v2").String() + "/", Err: u.Err}}
}

// answer is an error that a registry answered with.
type answer struct {
	status  int
	code    string // as in DENIED; "" if there was none
	message string
}

func (a *answer) Error() string {
	if a.code == "" {
		return a.message
	}
	return strings.ToLower(strings.ReplaceAll(a.code, "_", " ")) + ": " + a.message
}

// maxErrorBody is how much of an error is read.
const maxErrorBody = 64 << 10

// refused reads a response that is no success, and closes it.
func refused(resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
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
			a.code, a.message = clean(doc.Errors[0].Code), clean(doc.Errors[0].Message)
			if a.message == "" {
				a.message = strings.ToLower(strings.ReplaceAll(a.code, "_", " "))
			}
		case doc.Details != "":
			a.message = clean(doc.Details)
		case doc.Description != "":
			a.message = clean(doc.Description)
		case doc.Message != "":
			a.message = clean(doc.Message)
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
	f := &failure{cause: a, kind: errdefs.ErrInternal}
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		f.kind = errdefs.ErrUnauthenticated
	case resp.StatusCode == http.StatusForbidden:
		f.kind = errdefs.ErrPermissionDenied
	case resp.StatusCode == http.StatusNotFound:
		f.kind = errdefs.ErrNotFound
	case resp.StatusCode == http.StatusTooManyRequests:
		f.kind, f.temporary = errdefs.ErrResourceExhausted, true
		if after := resp.Header.Get("Retry-After"); after != "" {
			a.message += " (try again after " + clean(after) + suffixSeconds(after) + ")"
		}
	case resp.StatusCode >= 500:
		f.temporary = true
	case resp.StatusCode >= 400:
		f.kind = errdefs.ErrInvalidArgument
	}
	return f
}

func suffixSeconds(after string) string {
	if strings.Trim(after, "0123456789") == "" {
		return " s"
	}
	return ""
}

// clean makes a text from the network fit for a terminal.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r == 0x7f {
			return -1
		}
		return r
	}, text)
	if len(text) > 1000 {
		text = text[:1000] + "..."
	}
	return strings.TrimSpace(text)
}

// pullError puts a registry's refusal into dockerd's words about a pull.
func pullError(err error, ref reference.Named) error {
	var a *answer
	if !errors.As(err, &a) {
		return about(notAsking(err), ref)
	}
	switch {
	case a.code == "DENIED" || a.status == http.StatusForbidden:
		return notFound("pull access denied for %s, repository does not exist or may require 'docker login': %v", reference.FamiliarName(ref), a)
	case a.code == "MANIFEST_UNKNOWN" || a.code == "" && a.status == http.StatusNotFound:
		return notFound("manifest for %s not found: %v", reference.FamiliarString(ref), a)
	case a.code == "NAME_UNKNOWN":
		return notFound("repository %s not found: %v", reference.FamiliarName(ref), a)
	}
	return about(notAsking(err), ref)
}

// about names the image in an error that does not, unless nobody was reached:
// that error names the address, in dockerd's words.
func about(err error, ref reference.Named) error {
	name := reference.FamiliarString(ref)
	if err == nil || unreachable(err) || errors.Is(err, context.Canceled) || strings.Contains(err.Error(), name) || strings.Contains(err.Error(), reference.FamiliarName(ref)+" ") {
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

// notAsking takes the kind from a registry's 401: as a status of the engine's
// own it would make docker's client ask for a password, for the wrong server.
func notAsking(err error) error {
	if errdefs.IsUnauthorized(err) {
		return errdefs.ErrInternal.WithMessage(err.Error())
	}
	return err
}

func notFound(format string, args ...any) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf(format, args...))
}
