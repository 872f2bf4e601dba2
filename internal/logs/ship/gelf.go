package ship

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/wherry-engine/wherry/internal/logs"
)

// Of GELF over UDP: what fits a datagram, and how many of them a message has
// at most.
const (
	gelfChunk  = 1420
	gelfHeader = 12
	gelfMost   = 128
)

// gelf speaks GELF 1.1 over UDP, in chunks, or over TCP.
type gelf struct{ link }

func (g *gelf) send(ctx context.Context, e *logs.Entry) error {
	if len(e.Line) == 0 {
		return nil // a message without text is none in GELF
	}
	if err := g.dial(ctx, g.sink.Network, g.sink.Address); err != nil {
		return err
	}
	b, err := g.message(e)
	if err != nil {
		return err
	}
	if g.sink.Network == "tcp" {
		return g.write(ctx, append(b, 0), 0)
	}
	if b, err = g.compress(b); err != nil {
		return err
	}
	if len(b) <= gelfChunk {
		return g.write(ctx, b, 0)
	}
	size := gelfChunk - gelfHeader
	count := (len(b) + size - 1) / size
	if count > gelfMost {
		return nil // not to be sent at all; a line has 16 KiB at most, so it never is
	}
	head := make([]byte, gelfHeader, gelfChunk)
	head[0], head[1], head[11] = 0x1e, 0x0f, byte(count)
	if _, err := rand.Read(head[2:10]); err != nil {
		return err
	}
	for n := range count {
		head[10] = byte(n)
		if err := g.write(ctx, append(head, b[n*size:min(len(b), (n+1)*size)]...), 0); err != nil {
			return err
		}
	}
	return nil
}

func (g *gelf) message(e *logs.Entry) ([]byte, error) {
	i := g.sink.Info
	m := map[string]any{
		"version": "1.1", "host": i.HostName, "short_message": string(e.Line), "level": severity(e),
		"timestamp":     json.Number(fmt.Sprintf("%d.%03d", e.Time.Unix(), e.Time.Nanosecond()/int(time.Millisecond))),
		"_container_id": i.ContainerID, "_container_name": i.Name(), "_image_id": i.ContainerImageID, "_image_name": i.ContainerImageName,
		"_command": i.Command(), "_tag": g.sink.Tag, "_created": i.ContainerCreated,
	}
	for k, v := range g.sink.Extra {
		m[k] = v
	}
	return json.Marshal(m)
}

func (g *gelf) compress(b []byte) ([]byte, error) {
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch g.sink.Compression {
	case "none":
		return b, nil
	case "zlib":
		w, err = zlib.NewWriterLevel(&out, g.sink.Level)
	default:
		w, err = gzip.NewWriterLevel(&out, g.sink.Level)
	}
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
