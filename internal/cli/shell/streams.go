package shell

import (
	"errors"
	"io"
	"os"
	"sync"

	"github.com/moby/term"
)

// In is the standard input. Raw mode is undone at most once, so that several
// exits of a session may all call Restore.
type In struct {
	r     io.Reader
	fd    uintptr
	tty   bool
	mu    sync.Mutex
	state *term.State
}

// NewIn wraps r; it is a terminal only when r is a file that is one.
func NewIn(r io.Reader) *In {
	in := &In{r: r}
	if f, ok := r.(*os.File); ok {
		in.fd, in.tty = f.Fd(), term.IsTerminal(f.Fd())
	}
	return in
}

func (i *In) Read(p []byte) (int, error) { return i.r.Read(p) }

// IsTerminal reports whether a person may be typing.
func (i *In) IsTerminal() bool { return i.tty }

// File returns the file behind it, or nil.
func (i *In) File() *os.File {
	f, _ := i.r.(*os.File)
	return f
}

// Width of the terminal in columns, 80 when there is none.
func (i *In) Width() int {
	if i.tty {
		if ws, err := term.GetWinsize(i.fd); err == nil && ws.Width != 0 {
			return int(ws.Width)
		}
	}
	return 80
}

// SetRaw puts the terminal into raw mode; NORAW in the environment prevents it.
func (i *In) SetRaw() error {
	if !i.tty || os.Getenv("NORAW") != "" {
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	st, err := term.SetRawTerminal(i.fd)
	if err != nil {
		return err
	}
	if i.state == nil {
		i.state = st
	}
	return nil
}

// Restore undoes SetRaw.
func (i *In) Restore() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.state != nil {
		_ = term.RestoreTerminal(i.fd, i.state) // nothing better to do while leaving
		i.state = nil
	}
}

// CheckTTY refuses -it when the input is not a terminal.
func (i *In) CheckTTY(attachStdin, tty bool) error {
	if tty && attachStdin && !i.tty {
		return errors.New("the input device is not a TTY")
	}
	return nil
}

// Out is a standard output or error.
type Out struct {
	w   io.Writer
	fd  uintptr
	tty bool
}

// NewOut wraps w; it is a terminal only when w is a file that is one.
func NewOut(w io.Writer) *Out {
	o := &Out{w: w}
	if f, ok := w.(*os.File); ok {
		o.fd, o.tty = f.Fd(), term.IsTerminal(f.Fd())
	}
	return o
}

func (o *Out) Write(p []byte) (int, error) { return o.w.Write(p) }

// IsTerminal reports whether progress bars and cursor moves make sense.
func (o *Out) IsTerminal() bool { return o.tty }

// Size returns the terminal's rows and columns, 0,0 if it is none.
func (o *Out) Size() (height, width uint) {
	if !o.tty {
		return 0, 0
	}
	ws, err := term.GetWinsize(o.fd)
	if err != nil {
		return 0, 0
	}
	return uint(ws.Height), uint(ws.Width)
}

// Raw returns the writer underneath, for code that looks for a terminal itself.
func (o *Out) Raw() io.Writer { return o.w }
