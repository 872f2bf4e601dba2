package httpapi

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/coder/websocket"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/frame"
	"github.com/wherry-engine/wherry/internal/httpapi/older"
	"github.com/wherry-engine/wherry/internal/query"
	"github.com/wherry-engine/wherry/internal/session"
)

func streamRoutes(b *Backends) []route {
	h := streamHandlers{b}
	return []route{
		{method: post, path: "/containers/{name}/attach", handle: h.attach},
		{method: get, path: "/containers/{name}/attach/ws", handle: h.attachSocket},
		{method: get, path: "/containers/{name}/logs", handle: h.logs},
		{method: get, path: "/containers/{name}/stats", handle: h.stats},
		{method: post, path: "/containers/{name}/resize", handle: h.resize},
	}
}

type streamHandlers struct{ *Backends }

func (h streamHandlers) resize(c *call) error {
	height, width, err := c.size()
	if err != nil {
		return err
	}
	return h.Sessions.Resize(c.name, height, width)
}

// attach hands the connection over. Its errors are not JSON: they come, as
// dockerd's, as plain text under the content type of the stream.
func (h streamHandlers) attach(c *call) error {
	hijack, taken := c.hijack(nil)
	err := h.Sessions.Attach(c.lasting(), c.name, session.AttachOptions{
		Stream: c.flag("stream"), Stdin: c.flag("stdin"), Stdout: c.flag("stdout"), Stderr: c.flag("stderr"),
		Logs: c.flag("logs"), DetachKeys: c.arg("detachKeys"), Mux: true,
	}, hijack)
	if conn := taken(); err != nil && conn != nil {
		conn.Close()
		return nil // the client has its 101 and sees the end of the stream
	}
	if err == nil {
		return nil
	}
	code, known := status(err)
	if !known {
		return err // our bug: let it be logged
	}
	c.w.Header().Set("Content-Type", types.MediaTypeRawStream)
	c.w.WriteHeader(code)
	_, _ = fmt.Fprintf(c.w, "%v\r\n", err) // a client that went away needs no answer
	return nil
}

// hijack returns the function that takes the connection over, and one that
// says whether that has happened. head is sent with the answer's first line.
func (c *call) hijack(head http.Header) (session.Hijack, func() net.Conn) {
	var taken net.Conn
	return func(tty bool) (net.Conn, []byte, error) {
		if c.ContentLength > 0 && c.Header.Get("Content-Type") == "application/json" { // dockerode says an attach's options again
			_, _ = io.CopyN(io.Discard, c.Body, 64<<10) // a client that went away is met below
		}
		conn, buffered, err := http.NewResponseController(c.w.ResponseWriter).Hijack()
		if err != nil {
			return nil, nil, fmt.Errorf("hijack: %w", err)
		}
		c.w.begun = true
		taken = conn
		line, kind, upgrade := "200 OK", types.MediaTypeRawStream, ""
		if _, ok := c.Header["Upgrade"]; ok {
			line, upgrade = "101 UPGRADED", "Connection: Upgrade\r\nUpgrade: tcp\r\n"
			if !tty && !c.version.before(42) {
				kind = types.MediaTypeMultiplexedStream
			}
		}
		early := make([]byte, buffered.Reader.Buffered()) // what the client said before it was asked
		if _, err := io.ReadFull(buffered.Reader, early); err != nil {
			return nil, nil, fmt.Errorf("hijack: %w", err)
		}
		w := buffered.Writer
		fmt.Fprintf(w, "HTTP/1.1 %s\r\nContent-Type: %s\r\n%s", line, kind, upgrade)
		if err := head.Write(w); err != nil {
			return nil, nil, fmt.Errorf("hijack: %w", err)
		}
		_, _ = w.WriteString("\r\n") // Flush has the error
		if err := w.Flush(); err != nil {
			return nil, nil, fmt.Errorf("hijack: %w", err)
		}
		headRead(conn, c.UserAgent())
		return conn, early, nil
	}, func() net.Conn { return taken }
}

// attachSocket is attach over a websocket. Nothing is framed: a client that
// wants to tell the streams apart opens one socket for each.
func (h streamHandlers) attachSocket(c *call) error {
	o := session.AttachOptions{
		Stream: c.flag("stream"), Stdin: true, Stdout: true, Stderr: true, Logs: c.flag("logs"), DetachKeys: c.arg("detachKeys"),
	}
	if !c.version.before(42) {
		o.Stdin, o.Stdout, o.Stderr = c.flag("stdin"), c.flag("stdout"), c.flag("stderr")
	}
	opened := false
	err := h.Sessions.Attach(c.lasting(), c.name, o, func(bool) (net.Conn, []byte, error) {
		// Browsers may not reach the engine from other sites' pages: the
		// library refuses a foreign Origin.
		ws, err := websocket.Accept(c.w, c.Request, nil)
		if err != nil {
			return nil, nil, err
		}
		opened = true
		c.w.begun = true
		ws.SetReadLimit(1 << 20)
		kind := websocket.MessageBinary
		if c.version.before(28) {
			kind = websocket.MessageText
		}
		ctx := context.WithoutCancel(c.ctx())
		return &socketConn{Conn: websocket.NetConn(ctx, ws, kind), ctx: ctx, ws: ws}, nil, nil
	})
	if opened || c.w.begun {
		return nil // the socket, or the refusal of the handshake, has been answered
	}
	return err
}

// socketConn reads what comes in text and in binary messages alike.
type socketConn struct {
	net.Conn
	ctx     context.Context
	ws      *websocket.Conn
	message io.Reader
}

func (s *socketConn) Read(p []byte) (int, error) {
	for {
		if s.message == nil {
			_, r, err := s.ws.Reader(s.ctx)
			switch websocket.CloseStatus(err) {
			case websocket.StatusNormalClosure, websocket.StatusGoingAway:
				return 0, io.EOF
			}
			if err != nil {
				return 0, err
			}
			s.message = r
		}
		n, err := s.message.Read(p)
		if errors.Is(err, io.EOF) {
			s.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// wait answers its headers at once: a client that has them knows that the
// subscription stands, and may start the container.
func (h containerHandlers) wait(c *call) error {
	cond := container.WaitConditionNotRunning
	if !c.version.before(30) {
		switch given := container.WaitCondition(c.arg("condition")); given {
		case "":
		case container.WaitConditionNotRunning, container.WaitConditionNextExit, container.WaitConditionRemoved:
			cond = given
		default:
			return invalid(fmt.Sprintf("invalid condition: %q", string(given)))
		}
	}
	result, err := h.Lifecycle.Wait(c.ctx(), c.name, cond)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	if !c.version.before(30) {
		c.w.WriteHeader(http.StatusOK)
		c.w.flush()
	}
	select {
	case r, ok := <-result:
		if !ok {
			return errdefs.ErrInternal.WithMessage("the wait ended without a result")
		}
		if r.Error != nil && cond == container.WaitConditionRemoved && c.version.before(34) {
			return nil // an empty answer was the only way to report it
		}
		return json.NewEncoder(c.w).Encode(r)
	case <-c.ctx().Done():
		return c.ctx().Err()
	}
}

// logs streams what a container wrote.
func (h streamHandlers) logs(c *call) error {
	o := query.LogsOptions{
		Stdout: c.flag("stdout"), Stderr: c.flag("stderr"), Follow: c.flag("follow"),
		Timestamps: c.flag("timestamps"), Details: c.flag("details"), Tail: c.arg("tail"),
	}
	if !o.Stdout && !o.Stderr {
		return invalid("must specify at least one of 'stdout' or 'stderr'")
	}
	var err error
	if o.Since, err = c.moment("since", `"`); err != nil {
		return err
	}
	if c.arg("until") != "0" {
		if o.Until, err = c.moment("until", `"`); err != nil {
			return err
		}
	}
	opened, plain := false, false
	// Lines are short and many: they leave in large pieces, and whatever there
	// is as soon as no more is there.
	out := bufio.NewWriterSize(c.w, 64<<10)
	o.Idle = func() error {
		if err := out.Flush(); err != nil {
			return err
		}
		c.w.flush()
		return nil
	}
	err = h.Views.Logs(c.ctx(), c.name, o, func(tty bool) (io.Writer, io.Writer) {
		opened = true
		kind := types.MediaTypeRawStream
		if !tty && !c.version.before(42) {
			kind = types.MediaTypeMultiplexedStream
		}
		c.w.Header().Set("Content-Type", kind)
		c.w.WriteHeader(http.StatusOK)
		c.w.flush()
		if plain = tty; tty {
			return out, out
		}
		return frame.Writers(out)
	})
	if !opened {
		return err
	}
	if flushed := out.Flush(); err == nil && flushed == nil {
		return nil
	}
	if c.ctx().Err() == nil && err != nil && !errors.Is(err, context.Canceled) {
		// In the stream, as dockerd: the status is sent.
		message := []byte(fmt.Sprintf("Error grabbing logs: %v\n", err))
		if !plain {
			message = errorFrame(string(message))
		}
		_, _ = c.w.Write(message) // a client that went away needs no answer
	}
	return nil
}

// stats sends one sample, or one a second.
func (h streamHandlers) stats(c *call) error {
	stream := !c.query.Has("stream") || c.flag("stream")
	oneShot := !c.version.before(41) && c.flag("one-shot")
	err := h.Views.Stats(c.ctx(), c.name, stream, oneShot, func(r *container.StatsResponse) error {
		if !c.w.begun {
			return c.reply(http.StatusOK, r)
		}
		data, err := older.Marshal(r)
		if err == nil {
			_, err = c.w.Write(append(data, '\n'))
		}
		c.w.flush()
		return err
	})
	if c.w.begun && c.ctx().Err() != nil {
		return nil // the client left a stream
	}
	return err
}

// errorFrame is a message of the engine in a framed stream: stream 3, which
// clients show as an error.
func errorFrame(message string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{3, 0, 0, 0}, uint32(len(message)))
	return append(b, message...)
}
