package shell

import (
	"context"
	"strings"
	"time"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// Names lists candidates for completion.
type Names func(ctx context.Context, api client.APIClient) ([]string, error)

// completeTimeout bounds how long a press of the tab key may wait.
const completeTimeout = 5 * time.Second

// Complete offers names for the first max arguments (0: for all), without
// those already typed.
func Complete(sh *Shell, max int, names Names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if max > 0 && len(args) >= max {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		api, err := sh.API()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, completeTimeout)
		defer cancel()
		all, err := names(ctx, api)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var out []string
		for _, n := range all {
			if !contains(args, n) {
				out = append(out, n)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// Aliases annotates a command with the full spellings it answers to; help
// shows them under the name the program was called by.
func Aliases(paths ...string) map[string]string {
	return map[string]string{"aliases": strings.Join(paths, ",")}
}

// Confirm asks a yes-or-no question; anything but y is no.
func (s *Shell) Confirm(ctx context.Context, question string) (bool, error) {
	if _, err := s.Out.Write([]byte(question + " [y/N] ")); err != nil {
		return false, err
	}
	line := make(chan string, 1)
	go func() { line <- s.In.line() }()
	select {
	case l := <-line:
		return strings.EqualFold(strings.TrimSpace(l), "y"), nil
	case <-ctx.Done():
		s.Println()
		return false, context.Cause(ctx)
	}
}

// line reads to the end of line without reading ahead.
func (i *In) line() string {
	var b strings.Builder
	one := make([]byte, 1)
	for {
		n, err := i.Read(one)
		if n == 1 && one[0] != '\n' {
			b.WriteByte(one[0])
		}
		if err != nil || n == 1 && one[0] == '\n' {
			return b.String()
		}
	}
}
