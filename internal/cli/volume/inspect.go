package volume

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

// NewInspect is `volume inspect`.
func NewInspect(sh *shell.Shell) *cobra.Command {
	return show.Command(sh, "VOLUME", "volumes", Names, func(ctx context.Context, api client.APIClient, ref string) (any, []byte, error) {
		r, err := api.VolumeInspect(ctx, ref, client.VolumeInspectOptions{})
		return r.Volume, r.Raw, err
	})
}
