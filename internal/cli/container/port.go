package container

import (
	"fmt"
	"net"
	"sort"
	"strconv"
	"strings"

	"github.com/fvbommel/sortorder"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewPort is `port`.
func NewPort(sh *shell.Shell) *cobra.Command {
	return &cobra.Command{
		Use:         "port CONTAINER [PRIVATE_PORT[/PROTO]]",
		Short:       "List port mappings or a specific mapping for the container",
		Args:        shell.RangeArgs(1, 2),
		Annotations: shell.Aliases("container port", "port"),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := sh.API()
			if err != nil {
				return err
			}
			r, err := api.ContainerInspect(cmd.Context(), args[0], client.ContainerInspectOptions{})
			if err != nil {
				return err
			}
			ports := network.PortMap{}
			if ns := r.Container.NetworkSettings; ns != nil {
				ports = ns.Ports
			}
			lines, err := portLines(args, ports)
			for _, l := range lines {
				sh.Println(l)
			}
			return err
		},
		ValidArgsFunction: shell.Complete(sh, 1, running),
	}
}

func portLines(args []string, ports network.PortMap) ([]string, error) {
	var out []string
	if len(args) == 1 {
		for p, bindings := range ports {
			for _, b := range bindings {
				out = append(out, p.String()+" -> "+net.JoinHostPort(b.HostIP.String(), b.HostPort))
			}
		}
		sort.Slice(out, func(i, j int) bool { return sortorder.NaturalLess(out[i], out[j]) })
		return out, nil
	}
	port, proto, _ := strings.Cut(args[1], "/")
	if proto == "" {
		proto = "tcp"
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return nil, fmt.Errorf("Error: invalid port (%s): %w", port, err)
	}
	p, err := network.ParsePort(port + "/" + proto)
	if err != nil {
		return nil, err
	}
	bindings := ports[p]
	if len(bindings) == 0 {
		return nil, fmt.Errorf("Error: No public port '%s' published for %s", args[1], args[0])
	}
	for _, b := range bindings {
		out = append(out, net.JoinHostPort(b.HostIP.String(), b.HostPort))
	}
	sort.Slice(out, func(i, j int) bool { return sortorder.NaturalLess(out[i], out[j]) })
	return out, nil
}
