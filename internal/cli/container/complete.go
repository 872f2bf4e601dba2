package container

import (
	"context"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/moby/sys/signal"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/network"
	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/volume"
)

// names lists the containers that keep accepts, by name.
func names(ctx context.Context, api client.APIClient, all bool, keep func(container.ContainerState) bool) ([]string, error) {
	res, err := api.ContainerList(ctx, client.ContainerListOptions{All: all})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, c := range res.Items {
		if keep != nil && !keep(c.State) {
			continue
		}
		for _, n := range c.Names {
			if n = strings.TrimPrefix(n, "/"); !strings.Contains(n, "/") {
				out = append(out, n)
			}
		}
	}
	return out, nil
}

// Names lists all containers for completion.
func Names(ctx context.Context, api client.APIClient) ([]string, error) { return all(ctx, api) }

func all(ctx context.Context, api client.APIClient) ([]string, error) {
	return names(ctx, api, true, nil)
}

func running(ctx context.Context, api client.APIClient) ([]string, error) {
	return names(ctx, api, false, func(s container.ContainerState) bool { return s != container.StatePaused })
}

func paused(ctx context.Context, api client.APIClient) ([]string, error) {
	return names(ctx, api, false, func(s container.ContainerState) bool { return s == container.StatePaused })
}

func stopped(ctx context.Context, api client.APIClient) ([]string, error) {
	return names(ctx, api, true, func(s container.ContainerState) bool {
		return s == container.StateExited || s == container.StateCreated
	})
}

func removable(o *client.ContainerRemoveOptions) shell.Names {
	return func(ctx context.Context, api client.APIClient) ([]string, error) {
		if o.Force {
			return all(ctx, api)
		}
		return stopped(ctx, api)
	}
}

// completeSignal completes a flag that names a signal. Those for real time are
// left out: they have no meaning of their own, and there are sixty of them.
func completeSignal(cmd *cobra.Command, flag string) {
	var names []string
	for name := range signal.SignalMap {
		if !strings.HasPrefix(name, "RT") {
			names = append(names, name, "SIG"+name)
		}
	}
	slices.Sort(names)
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
}

// completeRunFlags completes the values of the flags of run and create.
func completeRunFlags(sh *shell.Shell, cmd *cobra.Command) {
	fixed := map[string][]string{
		"attach":   {"stdin", "stdout", "stderr"},
		"cgroupns": {"host", "private"},
		"ipc":      {"host", "none", "private", "shareable"},
		"pid":      {"host"},
		"pull":     {"always", "missing", "never"},
		"restart":  {"no", "always", "unless-stopped", "on-failure", "on-failure:3"},
		"userns":   {"host"},
		"uts":      {"host"},
	}
	for flag, values := range fixed {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	completeSignal(cmd, "stop-signal")
	_ = cmd.RegisterFlagCompletionFunc("network", shell.Complete(sh, 0, network.Names))
	_ = cmd.RegisterFlagCompletionFunc("mount", completeMount(sh))
	_ = cmd.RegisterFlagCompletionFunc("volume", completeVolume(sh))
	_ = cmd.RegisterFlagCompletionFunc("volume-driver", shell.Complete(sh, 0, volume.Drivers))
	for _, flag := range []string{"volumes-from", "link"} {
		_ = cmd.RegisterFlagCompletionFunc(flag, shell.Complete(sh, 0, all))
	}
}
