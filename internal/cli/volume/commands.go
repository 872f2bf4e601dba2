// Package volume owns the verbs about volumes, one file per verb.
package volume

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// Commands returns the verbs for the `volume` group.
func Commands(sh *shell.Shell) []*cobra.Command {
	return []*cobra.Command{NewCreate(sh), NewInspect(sh), NewLs(sh), NewPrune(sh), NewRm(sh)}
}

// Names lists volumes for completion.
func Names(ctx context.Context, api client.APIClient) ([]string, error) {
	r, err := api.VolumeList(ctx, client.VolumeListOptions{})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, v := range r.Items {
		out = append(out, v.Name)
	}
	return out, nil
}

// Drivers lists what keeps volumes, for completion.
func Drivers(ctx context.Context, api client.APIClient) ([]string, error) {
	r, err := api.Info(ctx, client.InfoOptions{})
	return r.Info.Plugins.Volume, err
}
