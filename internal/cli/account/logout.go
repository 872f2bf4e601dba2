package account

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewLogout is `logout`.
func NewLogout(sh *shell.Shell) *cobra.Command {
	return &cobra.Command{
		Use:   "logout [SERVER]",
		Short: "Log out from a registry, Docker Hub if none is named",
		Args:  shell.MaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			server := ""
			if len(args) == 1 {
				server = args[0]
			}
			key := shell.RegistryKey(server)
			sh.Println("Removing login credentials for", key)
			if err := sh.Config().Erase(cmd.Context(), key); err != nil {
				return fmt.Errorf("WARNING: could not erase credentials:\n%s: %w", key, err)
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}
