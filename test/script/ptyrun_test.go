package script

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"
)

// ptyrun is a program for scripts: ptyrun DIALOG PROGRAM ARG... It runs the
// program on a terminal of 24 rows and 80 columns, plays the dialog, prints all
// that the program wrote, and ends with the program's code. A dialog's lines:
//
//	expect REGEXP      wait until new output matches
//	send TEXT          type it; Go escapes such as \n and \x10 are understood
//	resize ROWS COLS
//	close              hang up
func ptyrun() {
	code, err := playDialog(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "ptyrun:", err)
		os.Exit(99)
	}
	os.Exit(code)
}

func playDialog(args []string) (int, error) {
	if len(args) < 2 {
		return 0, fmt.Errorf("usage: ptyrun DIALOG PROGRAM ARG...")
	}
	script, err := os.ReadFile(args[0])
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(args[1], args[2:]...)
	term, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	if err != nil {
		return 0, err
	}
	screen := &screen{more: make(chan struct{}, 1)}
	copied := make(chan struct{})
	go func() {
		io.Copy(screen, term) // ends with EIO when the program's side is closed
		close(copied)
	}()
	defer func() { os.Stdout.Write(screen.all()) }()
	for sc := bufio.NewScanner(bytes.NewReader(script)); sc.Scan(); {
		verb, rest, _ := strings.Cut(sc.Text(), " ")
		switch verb {
		case "", "#":
		case "expect":
			if err := screen.expect(rest, copied); err != nil {
				cmd.Process.Kill()
				return 0, err
			}
		case "send":
			text, err := strconv.Unquote(`"` + rest + `"`)
			if err != nil {
				return 0, fmt.Errorf("send %s: %w", rest, err)
			}
			if _, err := io.WriteString(term, text); err != nil {
				return 0, err
			}
		case "resize":
			var size pty.Winsize
			if _, err := fmt.Sscan(rest, &size.Rows, &size.Cols); err != nil {
				return 0, err
			}
			if err := pty.Setsize(term, &size); err != nil {
				return 0, err
			}
		case "close":
			term.Close()
		default:
			return 0, fmt.Errorf("unknown line %q", sc.Text())
		}
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		cmd.Process.Kill()
		return 0, fmt.Errorf("the program did not end")
	}
	<-copied
	return cmd.ProcessState.ExitCode(), nil
}

// screen collects output; expect looks only at what no expect has consumed.
type screen struct {
	mu   sync.Mutex
	text []byte
	seen int
	more chan struct{} // has an element when text grew
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	s.text = append(s.text, b...)
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (s *screen) all() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text
}

func (s *screen) expect(pattern string, ended <-chan struct{}) error {
	re, err := regexp.Compile("(?m)" + pattern)
	if err != nil {
		return err
	}
	limit := time.After(15 * time.Second)
	for last := false; ; {
		s.mu.Lock()
		at := re.FindIndex(s.text[s.seen:])
		if at != nil {
			s.seen += at[1]
		}
		s.mu.Unlock()
		if at != nil {
			return nil
		}
		if last {
			return fmt.Errorf("the program ended before %q", pattern)
		}
		select {
		case <-s.more:
		case <-ended:
			last = true
		case <-limit:
			return fmt.Errorf("no %q in 15 s", pattern)
		}
	}
}
