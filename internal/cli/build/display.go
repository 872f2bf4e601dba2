package build

import (
	"context"
	"fmt"
	"os"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/progress/progressui"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// display shows a build while it runs, on stderr: lines that redraw
// themselves on a terminal, plain text elsewhere.
type display struct {
	progressui.Display
	sh       *shell.Shell
	mode     progressui.DisplayMode
	text     *gather // of plain text; else nil
	warnings []client.VertexWarning
}

func newDisplay(sh *shell.Shell, mode progressui.DisplayMode) (*display, error) {
	where := "default"
	if ep, err := sh.Endpoint(); err == nil {
		where = ep.Context
	}
	if mode == progressui.AutoMode && os.Getenv("TERM") == "dumb" {
		mode = progressui.PlainMode // a terminal that cannot redraw a line
	}
	show := &display{sh: sh, mode: mode}
	to := sh.Err.Raw()
	if mode == progressui.PlainMode || mode == progressui.AutoMode && !sh.Err.IsTerminal() {
		show.text = &gather{w: to}
		to = show.text
	}
	var err error
	show.Display, err = progressui.NewDisplay(to, mode, progressui.WithDesc(
		fmt.Sprintf("building with %q instance", where), sh.Name+":"+where))
	if err != nil {
		return nil, err
	}
	return show, nil
}

// follow runs a build, which closes the channel that it is given, and returns
// when all of its progress was shown.
func (d *display) follow(build func(chan *client.SolveStatus) (*client.SolveResponse, error)) (*client.SolveResponse, error) {
	ch := make(chan *client.SolveStatus)
	shown := make(chan error, 1)
	go func() {
		// Not the command's context: what a cancelled build still says is shown.
		var err error
		d.warnings, err = d.UpdateFrom(context.Background(), ch)
		if d.text != nil {
			d.text.flush()
		}
		shown <- err
	}()
	res, err := build(ch)
	if showErr := <-shown; err == nil {
		err = showErr
	}
	d.showWarnings()
	return res, err
}

// showWarnings lists what the Dockerfile's check found, at the end where it is seen.
func (d *display) showWarnings() {
	if len(d.warnings) == 0 || d.mode == progressui.QuietMode || d.mode == progressui.RawJSONMode {
		return
	}
	hint := ""
	if !d.sh.Global.Debug {
		hint = fmt.Sprintf(" (use %s --debug to expand)", d.sh.Name)
	}
	if n := len(d.warnings); n == 1 {
		fmt.Fprintf(d.sh.Err, "\n 1 warning found%s:\n", hint)
	} else {
		fmt.Fprintf(d.sh.Err, "\n %d warnings found%s:\n", n, hint)
	}
	for _, w := range d.warnings {
		fmt.Fprintf(d.sh.Err, " - %s\n", w.Short)
		if !d.sh.Global.Debug {
			continue
		}
		for _, detail := range w.Detail {
			fmt.Fprintf(d.sh.Err, "   %s\n", detail)
		}
		if w.URL != "" {
			fmt.Fprintf(d.sh.Err, "   More info: %s\n", w.URL)
		}
		if w.SourceInfo != nil && len(w.Range) > 0 {
			lines := errdefs.Source{Info: w.SourceInfo, Ranges: w.Range}
			_ = lines.Print(d.sh.Err) // to the user's terminal, as all of this
		}
	}
}
