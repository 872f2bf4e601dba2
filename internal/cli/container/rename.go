package container

import (
	"errors"
	"fmt"
	"strings"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewRename is `rename`.
func NewRename(sh *shell.Shell) *cobra.Command {
	return &cobra.Command{
		Use:         "rename CONTAINER NEW_NAME",
		Short:       "Rename a container",
		Args:        shell.ExactArgs(2),
		Annotations: shell.Aliases("container rename", "rename"),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, to := strings.TrimSpace(args[0]), strings.TrimSpace(args[1])
			if from == "" || to == "" {
				return errors.New("Error: Neither old nor new names may be empty")
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			if _, err = api.ContainerRename(cmd.Context(), from, client.ContainerRenameOptions{NewName: to}); err != nil {
				return fmt.Errorf("%w\nError: failed to rename container named %s", err, from)
			}
			return nil
		},
		ValidArgsFunction: shell.Complete(sh, 1, all),
	}
}
