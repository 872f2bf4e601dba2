package container

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/client"
	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewWhy is `why`, which docker has not.
func NewWhy(sh *shell.Shell) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:         "why [OPTIONS] CONTAINER",
		Short:       "Tell what ended a container, and what to do",
		Args:        shell.ExactArgs(1),
		Annotations: shell.Aliases("container why", "why"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "" && format != "json" {
				return fmt.Errorf("the format is json, not %q", format)
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			w, err := client.Why(cmd.Context(), api, args[0])
			if err != nil {
				return err
			}
			if format == "json" {
				return json.NewEncoder(sh.Out).Encode(w)
			}
			fmt.Fprintf(sh.Out, "%s (%s, %s): %s\n", w.Name, w.Image, w.Status, w.Reason)
			for _, line := range w.More {
				fmt.Fprintf(sh.Out, "  %s\n", line)
			}
			for _, line := range w.Advice {
				fmt.Fprintf(sh.Out, "What to do: %s\n", line)
			}
			if len(w.Log) > 0 {
				fmt.Fprintln(sh.Out, "Last log lines:")
			}
			for _, line := range w.Log {
				fmt.Fprintf(sh.Out, "  | %s\n", line)
			}
			return nil
		},
		ValidArgsFunction: shell.Complete(sh, 1, all),
	}
	cmd.Flags().StringVar(&format, "format", "", `"json" for programs`)
	return cmd
}
