package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/lifecycle"
)

// maxBody bounds a JSON request body. The largest honest one, a create with
// thousands of variables, is far below.
const maxBody = 8 << 20

// call is one request on its way through a handler.
type call struct {
	*http.Request
	w       *responseWriter
	version version
	name    string // the part of the path that the route leaves open
	query   url.Values
}

// responseWriter knows whether the answer has begun.
type responseWriter struct {
	http.ResponseWriter
	begun bool
}

func (w *responseWriter) WriteHeader(code int) {
	w.begun = true
	w.ResponseWriter.WriteHeader(code)
}

func (w *responseWriter) Write(p []byte) (int, error) {
	w.begun = true
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *responseWriter) flush() {
	// It fails only where the connection is gone, and the next write says so.
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

func (c *call) ctx() context.Context { return c.Context() }

// lasting is the context of work that goes on when the client goes away: a
// container that is half stopped helps nobody. It knows who asked.
func (c *call) lasting() context.Context {
	return lifecycle.By(context.WithoutCancel(c.Context()), c.UserAgent())
}

// arg is a query parameter, or a field of a form body.
func (c *call) arg(key string) string { return c.query.Get(key) }

// flag reads a truth value as dockerd does: anything but these few is true.
func (c *call) flag(key string) bool {
	switch strings.ToLower(strings.TrimSpace(c.arg(key))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// number reads an optional whole number; nil when absent.
func (c *call) number(key string) (*int, error) {
	text := c.arg(key)
	if text == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return nil, invalid(err.Error())
	}
	return &n, nil
}

func (c *call) filters() (filter.Args, error) { return filter.Parse(c.arg("filters")) }

// moment reads a time in seconds with an optional fraction. quote is what
// dockerd puts around the parameter's name when it complains.
func (c *call) moment(key, quote string) (time.Time, error) {
	text, key := c.arg(key), quote+key+quote
	if text == "" {
		return time.Time{}, nil
	}
	seconds, fraction, _ := strings.Cut(text, ".")
	s, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return time.Time{}, invalid(fmt.Sprintf("invalid value for %s: invalid timestamp %q: invalid seconds %q: %v", key, text, seconds, errors.Unwrap(err)))
	}
	var n int64
	if fraction != "" {
		n, err = strconv.ParseInt((fraction + "000000000")[:9], 10, 64)
		if err != nil || n < 0 {
			return time.Time{}, invalid(fmt.Sprintf("invalid value for %s: invalid timestamp %q: invalid nanoseconds %q", key, text, fraction))
		}
	}
	return time.Unix(s, n), nil
}

// size reads the h and w of a resize.
func (c *call) size() (height, width uint16, err error) {
	one := func(key, word string) uint16 {
		digits, negative := strings.CutPrefix(c.arg(key), "-")
		n, perr := strconv.ParseUint(digits, 10, 32)
		if perr != nil {
			perr = errors.Unwrap(perr)
		} else if negative {
			perr = strconv.ErrRange
		}
		if perr != nil && err == nil {
			err = invalid(fmt.Sprintf("invalid resize %s %q: %v", word, c.arg(key), perr))
		}
		return uint16(min(n, 1<<16-1))
	}
	return one("h", "height"), one("w", "width"), err
}

// checkJSON wants a JSON content type where there is a body.
func (c *call) checkJSON() error {
	ct := c.Header.Get("Content-Type")
	if ct == "" && c.ContentLength == 0 {
		return nil
	}
	kind, _, err := mime.ParseMediaType(ct)
	if err != nil {
		return invalid(fmt.Sprintf("malformed Content-Type header (%s): %v", ct, err))
	}
	if kind != "application/json" {
		return invalid(fmt.Sprintf("unsupported Content-Type header (%s): must be 'application/json'", ct))
	}
	return nil
}

// body reads the whole body, bounded.
func (c *call) body() ([]byte, error) {
	data, err := io.ReadAll(http.MaxBytesReader(c.w, c.Body, maxBody))
	if err != nil {
		return nil, invalid("invalid request body: " + err.Error())
	}
	return data, nil
}

// json decodes the body into v. Without a body v stays as it is.
func (c *call) json(v any) error {
	if err := c.checkJSON(); err != nil {
		return err
	}
	if c.ContentLength == 0 {
		return nil
	}
	data, err := c.body()
	if err != nil {
		return err
	}
	return decode(data, v)
}

func decode(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	switch err := dec.Decode(v); {
	case errors.Is(err, io.EOF):
		return invalid("invalid JSON: got EOF while reading request body")
	case err != nil:
		return invalid("invalid JSON: " + err.Error())
	case dec.More():
		return invalid("unexpected content after JSON")
	}
	return nil
}

// reply sends v as JSON.
func (c *call) reply(code int, v any) error {
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(code)
	enc := json.NewEncoder(c.w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// done answers 204.
func (c *call) done(err error) error {
	if err == nil {
		c.w.WriteHeader(http.StatusNoContent)
	}
	return err
}
