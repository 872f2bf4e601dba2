package ship

import (
	"context"
	"errors"
	"os"
	"strconv"
	"time"

	"github.com/wherry-engine/wherry/internal/logs"
)

// syslog speaks RFC 3164 and 5424, over TLS framed as RFC 5425 has it.
type syslog struct {
	link
	buf []byte
}

// localSyslogs are where the host's own may listen.
var localSyslogs = []string{"/dev/log", "/var/run/syslog", "/var/run/log"}

func (s *syslog) open(ctx context.Context) error {
	if s.sink.Network != "" {
		return s.dial(ctx, s.sink.Network, s.sink.Address)
	}
	for _, network := range []string{"unixgram", "unix"} {
		for _, path := range localSyslogs {
			if s.dial(ctx, network, path) == nil {
				return nil
			}
		}
	}
	return errors.New("Unix syslog delivery error")
}

func (s *syslog) send(ctx context.Context, e *logs.Entry) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	b := s.format(s.buf[:0], e)
	if s.sink.TLS != nil && (s.sink.Format == "rfc5424" || s.sink.Format == "rfc5424micro") {
		b = append(append(strconv.AppendInt(nil, int64(len(b)), 10), ' '), b...)
	}
	s.buf = b
	return s.write(ctx, b, 0)
}

func (s *syslog) format(b []byte, e *logs.Entry) []byte {
	b = append(b, '<')
	b = strconv.AppendInt(b, int64(s.sink.Facility|severity(e)), 10)
	b = append(b, '>')
	pid, tag, host := strconv.Itoa(os.Getpid()), s.sink.Tag, s.sink.Info.HostName
	at := e.Time.Local()
	word := func(list ...string) {
		for _, w := range list {
			b = append(b, w...)
		}
	}
	switch s.sink.Format {
	case "":
		word(at.Format(time.Stamp), " ", tag, "[", pid, "]: ")
	case "rfc3164":
		word(at.Format(time.Stamp), " ", host, " ", tag, "[", pid, "]: ")
	case "rfc5424":
		word("1 ", at.Format(time.RFC3339), " ", host, " ", tag, " ", pid, " ", tag, " - ")
	default:
		word("1 ", at.Format("2006-01-02T15:04:05.000000Z07:00"), " ", host, " ", tag, " ", pid, " ", tag, " - ")
	}
	return append(append(b, e.Line...), '\n')
}
