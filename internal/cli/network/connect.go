package network

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

type connectFlags struct {
	ip, ip6  string
	links    opts.ListOpts
	aliases  []string
	linkLoc  []string
	options  []string
	priority int
}

// NewConnect is `network connect`.
func NewConnect(sh *shell.Shell) *cobra.Command {
	var c connectFlags
	c.links = opts.NewListOpts(opts.ValidateLink)
	cmd := &cobra.Command{
		Use:   "connect [OPTIONS] NETWORK CONTAINER",
		Short: "Connect a container to a network",
		Args:  shell.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ep, err := c.endpoint()
			if err != nil {
				return err
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			_, err = api.NetworkConnect(cmd.Context(), args[0], client.NetworkConnectOptions{Container: args[1], EndpointConfig: ep})
			return err
		},
		ValidArgsFunction: both(sh, false),
	}
	f := cmd.Flags()
	f.StringVar(&c.ip, "ip", "", `IPv4 address (e.g. "172.30.100.104")`)
	f.StringVar(&c.ip6, "ip6", "", `IPv6 address (e.g. "2001:db8::33")`)
	f.Var(&c.links, "link", "Link to another container")
	f.StringSliceVar(&c.aliases, "alias", nil, "Further name of the container on the network")
	f.StringSliceVar(&c.linkLoc, "link-local-ip", nil, "Link-local address of the container")
	f.StringSliceVar(&c.options, "driver-opt", nil, "Driver option of the connection")
	f.IntVar(&c.priority, "gw-priority", 0, "The connection of the highest priority gives the default gateway; it may be below 0")
	return cmd
}

func (c *connectFlags) endpoint() (*network.EndpointSettings, error) {
	ep := &network.EndpointSettings{Links: c.links.GetSlice(), Aliases: c.aliases, GwPriority: c.priority}
	ipam := &network.EndpointIPAMConfig{}
	for _, a := range []struct {
		flag, text string
		to         *netip.Addr
	}{{"ip", c.ip, &ipam.IPv4Address}, {"ip6", c.ip6, &ipam.IPv6Address}} {
		if a.text == "" {
			continue
		}
		addr, err := netip.ParseAddr(a.text)
		if err != nil {
			return nil, fmt.Errorf("invalid argument %q for --%s: no IP address", a.text, a.flag)
		}
		*a.to, ep.IPAMConfig = addr, ipam
	}
	for _, text := range c.linkLoc {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("invalid argument %q for --link-local-ip: no IP address", text)
		}
		ipam.LinkLocalIPs, ep.IPAMConfig = append(ipam.LinkLocalIPs, addr), ipam
	}
	for _, o := range c.options {
		k, v, ok := strings.Cut(o, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("invalid key value pair format in driver options: %q", o)
		}
		if ep.DriverOpts == nil {
			ep.DriverOpts = map[string]string{}
		}
		ep.DriverOpts[k] = v
	}
	return ep, nil
}

// both completes a network and then a container: with members, one that is on
// that network.
func both(sh *shell.Shell, members bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return shell.Complete(sh, 1, Names)(cmd, args, typed)
		}
		return shell.Complete(sh, 2, func(ctx context.Context, api client.APIClient) ([]string, error) {
			f := client.Filters{}
			if members {
				f.Add("network", args[0])
			}
			r, err := api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: f})
			if err != nil {
				return nil, err
			}
			var out []string
			for _, c := range r.Items {
				for _, n := range c.Names {
					out = append(out, strings.TrimPrefix(n, "/"))
				}
			}
			return out, nil
		})(cmd, args, typed)
	}
}
