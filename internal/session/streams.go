package session

import (
	"io"

	"github.com/wherry-engine/wherry/internal/frame"
)

// streams writes to a client in the form it expects.
type streams struct{ stdout, stderr io.Writer }

func newStreams(w io.Writer, framed bool) streams {
	if !framed {
		return streams{w, w}
	}
	out, err := frame.Writers(w)
	return streams{out, err}
}

func (s streams) write(stream string, line []byte) error {
	w := s.stdout
	if stream == "stderr" {
		w = s.stderr
	}
	_, err := w.Write(line)
	return err
}
