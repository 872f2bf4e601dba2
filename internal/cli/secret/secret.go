// Package secret owns the verbs about secrets of plain containers. docker has
// verbs of the same names for those of a swarm.
package secret

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	moby "github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/api"
	"github.com/wherry-engine/wherry/client"
	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

// Commands returns the verbs for the `secret` group.
func Commands(sh *shell.Shell) []*cobra.Command {
	return []*cobra.Command{newCreate(sh), newInspect(sh), newLs(sh), newRm(sh)}
}

func newCreate(sh *shell.Shell) *cobra.Command {
	labels := opts.NewListOpts(opts.ValidateLabel)
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] SECRET file|-",
		Short: "Create a secret from a file or STDIN",
		Args:  shell.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var data []byte
			var err error
			if args[1] == "-" {
				data, err = io.ReadAll(sh.In)
			} else {
				data, err = os.ReadFile(args[1])
			}
			if err != nil {
				return fmt.Errorf("Error reading content from %q: %v", args[1], err) //nolint:errorlint // docker's words
			}
			c, err := sh.API()
			if err != nil {
				return err
			}
			s, err := client.SecretCreate(cmd.Context(), c, api.SecretRequest{Name: args[0], Labels: opts.ConvertKVStringsToMap(labels.GetSlice()), Data: data})
			if err != nil {
				return err
			}
			sh.Println(s.ID)
			return nil
		},
	}
	cmd.Flags().VarP(&labels, "label", "l", "Secret labels")
	return cmd
}

func newLs(sh *shell.Shell) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List secrets",
		Args:    shell.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := sh.API()
			if err != nil {
				return err
			}
			list, err := client.SecretList(cmd.Context(), c)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(sh.Out, 0, 0, 3, ' ', 0)
			if !quiet {
				fmt.Fprintln(w, "ID\tNAME\tCREATED")
			}
			for _, s := range list {
				if quiet {
					fmt.Fprintln(w, s.ID)
				} else {
					fmt.Fprintf(w, "%s\t%s\t%s ago\n", s.ID, s.Name, units.HumanDuration(time.Since(s.CreatedAt)))
				}
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Only display IDs")
	return cmd
}

func newInspect(sh *shell.Shell) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] SECRET [SECRET...]",
		Short: "Display what is known of secrets; never their values",
		Args:  shell.MinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := sh.API()
			if err != nil {
				return err
			}
			return show.Inspect(sh.Out, args, format, func(ref string) (any, []byte, error) {
				s, err := client.SecretInspect(cmd.Context(), c, ref)
				if err != nil {
					return nil, nil, err
				}
				raw, err := json.Marshal(s)
				return s, raw, err
			})
		},
		ValidArgsFunction: shell.Complete(sh, 0, names),
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", show.FormatHelp)
	return cmd
}

func newRm(sh *shell.Shell) *cobra.Command {
	return &cobra.Command{
		Use:     "rm SECRET [SECRET...]",
		Aliases: []string{"remove"},
		Short:   "Remove one or more secrets",
		Args:    shell.MinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := sh.API()
			if err != nil {
				return err
			}
			failed := false
			for _, name := range args {
				if err := client.SecretRemove(cmd.Context(), c, name); err != nil {
					fmt.Fprintln(sh.Err, err)
					failed = true
					continue
				}
				sh.Println(name)
			}
			if failed {
				return &shell.StatusError{Code: 1}
			}
			return nil
		},
		ValidArgsFunction: shell.Complete(sh, 0, names),
	}
}

func names(ctx context.Context, c moby.APIClient) ([]string, error) {
	list, err := client.SecretList(ctx, c)
	var out []string
	for _, s := range list {
		out = append(out, s.Name)
	}
	return out, err
}
