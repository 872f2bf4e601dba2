package container

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

// NewInspect is `container inspect`.
func NewInspect(sh *shell.Shell) *cobra.Command {
	var size bool
	cmd := show.Command(sh, "CONTAINER", "containers", all, func(ctx context.Context, api client.APIClient, ref string) (any, []byte, error) {
		r, err := api.ContainerInspect(ctx, ref, client.ContainerInspectOptions{Size: size})
		return r.Container, r.Raw, err
	})
	cmd.Flags().BoolVarP(&size, "size", "s", false, "Display total file sizes")
	return cmd
}
