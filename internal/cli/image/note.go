package image

import (
	"io"
	"strings"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// style is how a terminal shows words; elsewhere they are plain.
type style string

// Those of notes, as docker has them.
const (
	bold   style = "\x1b[1m"
	italic style = "\x1b[3m"
	red    style = "\x1b[31m"
	green  style = "\x1b[32m"
	reset        = "\x1b[0m"
)

// in gives words a style.
func (s style) in(out *shell.Out, words string) string {
	if !out.IsTerminal() {
		return words
	}
	return string(s) + words + reset
}

// printNote tells a person what is worth knowing, in lines.
func printNote(out *shell.Out, lines ...string) {
	head := " Info -> "
	if out.IsTerminal() {
		head = "\x1b[1m\x1b[106m\x1b[30mi\x1b[0m\x1b[0m \x1b[96mInfo → \x1b[0m\x1b[0m"
	}
	var text strings.Builder
	for i, line := range lines {
		if i > 0 {
			head = strings.Repeat(" ", len(" Info -> "))
		}
		text.WriteString("\n" + head + italic.in(out, line))
	}
	io.WriteString(out, text.String()+"\n") //nolint:errcheck // nobody is there to be told
}
