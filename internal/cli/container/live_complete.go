package container

import (
	"context"
	"maps"
	"net"
	"slices"
	"strconv"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// completeLive completes the values of update's flags about networks: of the
// containers that are typed already, else of those that run.
func completeLive(sh *shell.Shell, cmd *cobra.Command) {
	for flag, values := range map[string]func(container.InspectResponse) []string{
		"publish-add":       exposed,
		"publish-rm":        publishedBy,
		"network-alias-add": networksOf,
		"network-alias-rm":  aliasesAt,
	} {
		directive := cobra.ShellCompDirectiveNoFileComp
		if flag == "network-alias-add" {
			directive |= cobra.ShellCompDirectiveNoSpace // the alias follows
		}
		_ = cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			out, d := shell.Complete(sh, 0, func(ctx context.Context, api client.APIClient) ([]string, error) {
				return ofEach(ctx, api, args, values)
			})(cmd, nil, typed)
			if d == cobra.ShellCompDirectiveNoFileComp {
				d = directive
			}
			return out, d
		})
	}
}

// ofEach gathers what values finds of containers.
func ofEach(ctx context.Context, api client.APIClient, refs []string, values func(container.InspectResponse) []string) ([]string, error) {
	var err error
	if len(refs) == 0 {
		if refs, err = running(ctx, api); err != nil {
			return nil, err
		}
	}
	found := map[string]bool{}
	for _, ref := range refs {
		r, err := api.ContainerInspect(ctx, ref, client.ContainerInspectOptions{})
		if err != nil {
			continue // gone, or mistyped
		}
		for _, v := range values(r.Container) {
			found[v] = true
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// exposed are the exposed ports that are not published.
func exposed(c container.InspectResponse) []string {
	var out []string
	for port := range c.Config.ExposedPorts {
		if len(c.HostConfig.PortBindings[port]) == 0 {
			out = append(out, port.String())
		}
	}
	return out
}

// publishedBy are the ports of the host that lead to the container, as
// --publish-rm takes them.
func publishedBy(c container.InspectResponse) []string {
	ports := c.HostConfig.PortBindings
	if c.State.Running {
		ports = c.NetworkSettings.Ports
	}
	var out []string
	for port, bindings := range ports {
		suffix := ""
		if port.Proto() != "tcp" {
			suffix = "/" + string(port.Proto())
		}
		for _, b := range bindings {
			switch n, _ := strconv.ParseUint(b.HostPort, 10, 16); {
			case n == 0: // chosen at the start, or routed
			case b.HostIP.IsValid() && !b.HostIP.IsUnspecified():
				out = append(out, net.JoinHostPort(b.HostIP.String(), b.HostPort)+suffix)
			default:
				out = append(out, b.HostPort+suffix)
			}
		}
	}
	return out
}

// networksOf are the networks on which the container can have an alias.
func networksOf(c container.InspectResponse) []string {
	var out []string
	for name := range c.NetworkSettings.Networks {
		if container.NetworkMode(name).IsUserDefined() {
			out = append(out, name+"=")
		}
	}
	return out
}

func aliasesAt(c container.InspectResponse) []string {
	var out []string
	for name, ep := range c.NetworkSettings.Networks {
		for _, alias := range ep.Aliases {
			out = append(out, name+"="+alias)
		}
	}
	return out
}
