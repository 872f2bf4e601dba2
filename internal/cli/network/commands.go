// Package network owns the verbs about networks, one file per verb.
package network

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// Commands returns the verbs for the `network` group.
func Commands(sh *shell.Shell) []*cobra.Command {
	return []*cobra.Command{NewConnect(sh), NewCreate(sh), NewDisconnect(sh), NewInspect(sh), NewLs(sh), NewPrune(sh), NewRm(sh)}
}

// Names lists networks for completion.
func Names(ctx context.Context, api client.APIClient) ([]string, error) {
	r, err := api.NetworkList(ctx, client.NetworkListOptions{})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range r.Items {
		out = append(out, n.Name)
	}
	return out, nil
}
