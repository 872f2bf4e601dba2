package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// Headings under which the top level lists its commands.
const (
	categoryCommon = "Common Commands"
	categoryGroup  = "Management Commands"
)

// namePadding aligns the list of commands.
const namePadding = 11

// flagError words what is wrong with a flag, and where to read about it.
func flagError(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	return &shell.StatusError{
		Code: 125, Cause: err,
		Message: fmt.Sprintf("%s\n\nUsage:  %s\n\nRun '%s --help' for more information", err, cmd.UseLine(), cmd.CommandPath()),
	}
}

func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [command]", Short: "Help about the command", Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, rest, err := cmd.Root().Find(args)
			if c == nil || err != nil || len(rest) > 0 {
				return fmt.Errorf("unknown help topic: %s", strings.Join(args, " "))
			}
			return c.Help()
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func help(sh *shell.Shell, cmd *cobra.Command) {
	w := cmd.OutOrStdout() // a command line that is incomplete sets it to stderr
	if _, err := io.WriteString(w, helpText(cmd, sh.In.Width())); err != nil {
		sh.Debugf("help: %s", err)
	}
}

func helpText(cmd *cobra.Command, width int) string {
	var b strings.Builder
	b.WriteString("Usage:  ")
	if cmd.HasSubCommands() {
		b.WriteString(cmd.CommandPath())
		if cmd.HasAvailableLocalFlags() {
			b.WriteString(" [OPTIONS]")
		}
		b.WriteString(" COMMAND\n\n")
	} else {
		b.WriteString(cmd.UseLine() + "\n\n")
	}
	text := cmd.Long
	if text == "" {
		text = cmd.Short
	}
	b.WriteString(strings.TrimSpace(text) + "\n")
	if a := cmd.Annotations["aliases"]; a != "" {
		root := cmd.Root().Name() + " "
		b.WriteString("\nAliases:\n  " + root + strings.ReplaceAll(a, ",", ", "+root) + "\n")
	}
	if cmd.HasSubCommands() {
		listCommands(&b, cmd)
	}
	if cmd.HasAvailableLocalFlags() {
		title := "Options"
		if !cmd.HasParent() {
			title = "Global Options"
		}
		flags := cmd.LocalFlags()
		b.WriteString("\n" + title + ":\n" + strings.TrimRight(flags.FlagUsagesWrapped(width-1), " \n") + "\n")
	}
	if cmd.HasSubCommands() {
		fmt.Fprintf(&b, "\nRun '%s COMMAND --help' for more information on a command.\n", cmd.CommandPath())
	}
	return b.String()
}

func listCommands(b *strings.Builder, cmd *cobra.Command) {
	titles := []string{"Commands"}
	if !cmd.HasParent() {
		titles = []string{categoryCommon, categoryGroup, "Commands"}
	}
	subs := cmd.Commands()
	if !cmd.HasParent() {
		subs = inHelpOrder(subs)
	}
	for _, title := range titles {
		first := true
		for _, c := range subs {
			category := c.Annotations["category"]
			if category == "" || cmd.HasParent() {
				category = "Commands"
			}
			if category != title || !c.IsAvailableCommand() {
				continue
			}
			if first {
				b.WriteString("\n" + title + ":\n")
				first = false
			}
			fmt.Fprintf(b, "  %-*s %s\n", namePadding, c.Name(), c.Short)
		}
	}
}

// inHelpOrder puts the common verbs in their own order; cobra sorts by name.
func inHelpOrder(subs []*cobra.Command) []*cobra.Command {
	var out []*cobra.Command
	for _, v := range common {
		for _, c := range subs {
			if c.Name() == v.name {
				out = append(out, c)
			}
		}
	}
	for _, c := range subs {
		if c.Annotations["category"] != categoryCommon {
			out = append(out, c)
		}
	}
	return out
}
