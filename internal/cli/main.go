// Package cli owns the command line as a whole: the tree of verbs, help and
// usage texts, global flags, signals and the end of the program. The verbs
// themselves are in its sub-packages and see only the API client.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// patience is how many times a user may ask to end before it is forced.
const patience = 3

// Main runs one command line on the process's streams and returns its exit
// status. The verbs about builds are in another program, to which it hands
// over, unless that program gives them here.
func Main(name string, b shell.Build, args []string, own ...Verb) int {
	args = slices.Clone(args) // cobra writes into them, and handing over needs them as they were
	ctx := interruptible(context.Background())
	sh, err := agree(ctx, func() *shell.Shell { return shell.New(name, b) }, args, own...)
	if cause := context.Cause(ctx); cause != nil && err != nil && !errors.As(err, new(*shell.StatusError)) {
		err = cause
	}
	shell.Print(sh.Err, err)
	return shell.ExitCode(err)
}

// agree runs the command line, a second time if the engine speaks only an
// older API: it refuses the first request then and changes nothing. Each run
// has a shell of its own, because flags were parsed into the first.
func agree(ctx context.Context, fresh func() *shell.Shell, args []string, own ...Verb) (*shell.Shell, error) {
	sh := fresh()
	err := Run(ctx, sh, args, own...)
	v := shell.TooNew(err)
	if v == "" || os.Getenv("DOCKER_API_VERSION") != "" {
		return sh, err
	}
	sh = fresh()
	sh.APIVersion = v
	return sh, Run(ctx, sh, args, own...)
}

// Command is the whole tree of verbs, for those who describe it.
func Command(sh *shell.Shell, own ...Verb) *cobra.Command { return tree(sh, nil, own) }

// Run executes one command line in sh. Its error is not printed yet.
func Run(ctx context.Context, sh *shell.Shell, args []string, own ...Verb) error {
	root := tree(sh, args, own)
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

func tree(sh *shell.Shell, args []string, own []Verb) *cobra.Command {
	root := newRoot(sh, args)
	for _, v := range own {
		v.replace(root, sh)
	}
	return root
}

// interruptible cancels ctx at the first SIGINT or SIGTERM with the signal as
// the cause. A verb that forwards signals goes on regardless of ctx; the user
// who insists gets out all the same.
func interruptible(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	c := make(chan os.Signal, patience)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		for n := 1; ; n++ {
			s, _ := (<-c).(syscall.Signal) // it is one on Linux
			cancel(shell.Interrupted{Signal: s})
			if n == patience {
				fmt.Fprintf(os.Stderr, "\ngot %d SIGTERM/SIGINTs, forcefully exiting\n", n)
				os.Exit(1)
			}
		}
	}()
	return ctx
}
