package httpapi

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/events"

	"github.com/wherry-engine/wherry/internal/event"
	"github.com/wherry-engine/wherry/internal/httpapi/older"
)

// events streams what happens, one JSON object a line.
func (h systemHandlers) events(c *call) error {
	since, err := c.moment("since", "'")
	if err != nil {
		return err
	}
	until, err := c.moment("until", "'")
	if err != nil {
		return err
	}
	if !until.IsZero() && until.Before(since) {
		return invalid(fmt.Sprintf("`since` time (%s) cannot be after `until` time (%s)", c.arg("since"), c.arg("until")))
	}
	f, err := c.filters()
	if err != nil {
		return err
	}
	if err := f.Validate(event.Keys...); err != nil {
		return err
	}

	// Subscribed before the headers go out: a client that has seen them misses nothing.
	past, live := h.Events.Subscribe(c.ctx(), since, until, f)
	kind := streamType(c)
	c.w.Header().Set("Content-Type", kind)
	c.w.WriteHeader(http.StatusOK)
	c.w.flush()
	enc := json.NewEncoder(c.w)
	enc.SetEscapeHTML(false)
	send := func(m events.Message) error {
		if c.version.before(46) && m.Type == events.ImageEventType && m.Action == events.ActionCreate {
			return nil
		}
		if kind == types.MediaTypeJSONSequence {
			if _, err := c.w.Write([]byte{0x1e}); err != nil {
				return err
			}
		}
		return enc.Encode(older.Event(m))
	}
	for _, m := range past {
		if err := send(m); err != nil {
			return nil // the client is gone
		}
	}
	c.w.flush()
	if !until.IsZero() && until.Before(time.Now()) {
		return nil
	}
	for m := range live {
		if err := send(m); err != nil {
			return nil
		}
		if len(live) == 0 {
			c.w.flush()
		}
	}
	return nil
}

// streamType chooses how a stream of objects is framed: what the client asks
// for by name, else what its version knows.
func streamType(c *call) string {
	for _, accept := range c.Header.Values("Accept") {
		for one := range strings.SplitSeq(accept, ",") {
			switch kind, _, _ := mime.ParseMediaType(one); kind {
			case types.MediaTypeJSONLines, types.MediaTypeNDJSON, types.MediaTypeJSONSequence:
				return kind
			}
		}
	}
	if c.version.before(52) {
		return types.MediaTypeJSON
	}
	return types.MediaTypeJSONLines
}
