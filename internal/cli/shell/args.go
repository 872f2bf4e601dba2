package shell

import (
	"fmt"

	"github.com/spf13/cobra"
)

func plural(n int) string {
	if n == 1 {
		return "argument"
	}
	return "arguments"
}

func argsError(cmd *cobra.Command, what, see string) error {
	return fmt.Errorf("%[1]s: '%[2]s' %[3]s\n\nUsage:  %[4]s\n\n%[5]s '%[2]s --help' for more information",
		cmd.Root().Name(), cmd.CommandPath(), what, cmd.UseLine(), see)
}

// NoArgs refuses arguments; on a group of verbs the argument is an unknown verb.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasSubCommands() {
		return fmt.Errorf("%[1]s: unknown command: %[2]s %[3]s\n\nUsage:  %[4]s\n\nRun '%[2]s --help' for more information",
			cmd.Root().Name(), cmd.CommandPath(), args[0], cmd.UseLine())
	}
	return argsError(cmd, "accepts no arguments", "Run")
}

// MinArgs wants at least n arguments.
func MinArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= n {
			return nil
		}
		return argsError(cmd, fmt.Sprintf("requires at least %d %s", n, plural(n)), "See")
	}
}

// MaxArgs wants at most n arguments.
func MaxArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) <= n {
			return nil
		}
		return argsError(cmd, fmt.Sprintf("requires at most %d %s", n, plural(n)), "Run")
	}
}

// ExactArgs wants n arguments.
func ExactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return argsError(cmd, fmt.Sprintf("requires %d %s", n, plural(n)), "Run")
	}
}

// RangeArgs wants from low to high arguments.
func RangeArgs(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= low && len(args) <= high {
			return nil
		}
		return argsError(cmd, fmt.Sprintf("requires at least %d and at most %d %s", low, high, plural(high)), "Run")
	}
}
