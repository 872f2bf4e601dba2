// Package network owns the verbs about networks, one file per verb.
package network

import (
	"context"
	"slices"

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

// allDrivers lists what networks can be driven by.
func allDrivers(ctx context.Context, api client.APIClient) ([]string, error) {
	r, err := api.Info(ctx, client.InfoOptions{})
	return r.Info.Plugins.Network, err
}

// drivers lists what makes networks.
func drivers(ctx context.Context, api client.APIClient) ([]string, error) {
	r, err := api.Info(ctx, client.InfoOptions{})
	// Of these two there is one network, which is made already.
	return slices.DeleteFunc(r.Info.Plugins.Network, func(s string) bool { return s == "host" || s == "null" }), err
}

// addressDrivers lists what gives out addresses, as far as the engine tells: a
// plugin that has networks often has addresses, too.
func addressDrivers(ctx context.Context, api client.APIClient) ([]string, error) {
	list, err := drivers(ctx, api)
	list = slices.DeleteFunc(list, func(s string) bool { return s == "bridge" || s == "ipvlan" || s == "macvlan" })
	return append([]string{"default", "null"}, list...), err
}
