package ship

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/wherry-engine/wherry/internal/logs"
)

// fluentd speaks the message mode of Fluentd's forward protocol, version 1.
type fluentd struct{ link }

func (f *fluentd) send(ctx context.Context, e *logs.Entry) error {
	if err := f.dial(ctx, f.sink.Network, f.sink.Address); err != nil {
		return err
	}
	var chunk string
	if f.sink.Acknowledge {
		var id [16]byte
		if _, err := rand.Read(id[:]); err != nil {
			return err
		}
		chunk = base64.StdEncoding.EncodeToString(id[:])
	}
	if err := f.write(ctx, f.message(e, chunk), f.sink.WriteTimeout); err != nil || chunk == "" {
		return err
	}
	if err := f.acknowledged(chunk); err != nil {
		f.close()
		return err
	}
	return nil
}

// acknowledged reads the answer, {"ack": chunk}.
func (f *fluentd) acknowledged(chunk string) error {
	limit := f.sink.ReadTimeout
	if limit == 0 {
		limit = sendLimit
	}
	if err := f.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	buf := make([]byte, 256)
	for n := 0; ; {
		k, err := f.conn.Read(buf[n:])
		n += k
		if bytes.Contains(buf[:n], []byte(chunk)) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for the acknowledgement: %w", err)
		}
		if n == len(buf) {
			return errors.New("the acknowledgement is for another message")
		}
	}
}

func (f *fluentd) message(e *logs.Entry, chunk string) []byte {
	i := f.sink.Info
	record := map[string]string{
		"container_id": i.ContainerID, "container_name": i.ContainerName, "source": e.Stream, "log": string(e.Line),
	}
	maps.Copy(record, f.sink.Extra)
	if e.Partial {
		record["partial_message"] = "true"
	}
	b := []byte{0x93} // an array of three
	if chunk != "" {
		b[0]++
	}
	b = packString(b, f.sink.Tag)
	if f.sink.SubSecond {
		b = append(b, 0xd7, 0) // EventTime
		b = binary.BigEndian.AppendUint32(b, uint32(e.Time.Unix()))
		b = binary.BigEndian.AppendUint32(b, uint32(e.Time.Nanosecond()))
	} else {
		b = binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(e.Time.Unix()))
	}
	b = packMap(b, record)
	if chunk != "" {
		b = packMap(b, map[string]string{"chunk": chunk})
	}
	return b
}

func packMap(b []byte, m map[string]string) []byte {
	if len(m) < 16 {
		b = append(b, 0x80|byte(len(m)))
	} else {
		b = binary.BigEndian.AppendUint16(append(b, 0xde), uint16(len(m)))
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		b = packString(packString(b, k), m[k])
	}
	return b
}

func packString(b []byte, s string) []byte {
	switch n := len(s); {
	case n < 32:
		b = append(b, 0xa0|byte(n))
	case n < 1<<8:
		b = append(b, 0xd9, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0xda), uint16(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, 0xdb), uint32(n))
	}
	return append(b, s...)
}
