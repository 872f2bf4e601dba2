package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// builder is the program of the verbs about builds. BuildKit's client would
// add 2 ms to the start of every command, so it is not part of wherry.
const builder = "wherry-build"

// elsewhere are the verbs of that program.
var elsewhere = map[string]string{
	"build":   "Build an image from a Dockerfile",
	"builder": "Manage builds",
	"buildx":  "Manage builds",
}

// Verb is a verb that another program has in the place of the one that hands
// over to it; Path is where it hangs, as "image build".
type Verb struct {
	Path string
	Make func(*shell.Shell) *cobra.Command
}

// replace puts v into a tree that has its place.
func (v Verb) replace(root *cobra.Command, sh *shell.Shell) {
	words := strings.Fields(v.Path)
	parent := root
	for i, w := range words {
		for _, c := range parent.Commands() {
			if c.Name() != w {
				continue
			}
			if i < len(words)-1 {
				parent = c
				break
			}
			cmd := v.Make(sh)
			cmd.DisableFlagsInUseLine, cmd.Hidden = true, c.Hidden
			if cmd.Annotations == nil {
				cmd.Annotations = map[string]string{}
			}
			cmd.Annotations["category"] = c.Annotations["category"]
			parent.RemoveCommand(c)
			parent.AddCommand(cmd)
			return
		}
	}
}

// newElsewhere is a verb that only hands over: help and completion too.
func newElsewhere(name string) func(*shell.Shell) *cobra.Command {
	return func(sh *shell.Shell) *cobra.Command {
		over := func() error { return handOver(sh) }
		cmd := &cobra.Command{
			Use: name + " [OPTIONS]", Short: elsewhere[name], DisableFlagParsing: true,
			Hidden: name == "buildx", // builder by another name, for who is used to it
			RunE:   func(*cobra.Command, []string) error { return over() },
			ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
				sh.Debugf("%v", over())
				return nil, cobra.ShellCompDirectiveError
			},
		}
		cmd.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
			if err := over(); err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), err)
			}
		})
		return cmd
	}
}

// handOver becomes the other program with the same command line; it returns
// only if that cannot be.
func handOver(sh *shell.Shell) error {
	path, err := findBuilder()
	if err != nil {
		return &shell.StatusError{Code: 125, Cause: err, Message: fmt.Sprintf("%s: builds need the program %s: %v\n\n"+
			"`make install` puts it beside wherry. The docker CLI's `docker build` works against the engine, too.", sh.Name, builder, err)}
	}
	err = become(path, os.Args, os.Environ())
	return &shell.StatusError{Code: 126, Cause: err, Message: fmt.Sprintf("%s: %s: %v", sh.Name, path, err)}
}

// findBuilder looks beside this program, then on PATH.
func findBuilder() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	name := builder
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	beside := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(beside); err == nil {
		return beside, nil
	}
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("it is neither at %s nor on PATH", beside)
	}
	return path, err
}
