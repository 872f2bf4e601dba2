package network

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// addressing is what the IPAM flags say.
type addressing struct {
	driver                    string
	subnets, ranges, gateways []string
	auxiliary, options        opts.MapOpts
	subnet                    []network.IPAMConfig
}

// NewCreate is `network create`.
func NewCreate(sh *shell.Shell) *cobra.Command {
	var o client.NetworkCreateOptions
	var ipv4, ipv6 bool
	a := addressing{auxiliary: *opts.NewMapOpts(nil, nil), options: *opts.NewMapOpts(nil, nil)}
	options, labels := opts.NewMapOpts(nil, nil), opts.NewListOpts(opts.ValidateLabel)
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] NETWORK",
		Short: "Create a network",
		Args:  shell.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flag("ipv4").Changed {
				o.EnableIPv4 = &ipv4
			}
			if cmd.Flag("ipv6").Changed {
				o.EnableIPv6 = &ipv6
			}
			o.Options, o.Labels = options.GetAll(), opts.ConvertKVStringsToMap(labels.GetSlice())
			var err error
			if o.IPAM, err = a.ipam(); err != nil {
				return err
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			r, err := api.NetworkCreate(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			sh.Warn(r.Warning)
			sh.Println(r.ID)
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringVarP(&o.Driver, "driver", "d", "bridge", "Driver of the network")
	f.VarP(options, "opt", "o", "Driver option")
	f.Var(&labels, "label", "Metadata of the network")
	f.BoolVar(&o.Internal, "internal", false, "Nothing outside of the network can be reached")
	f.BoolVar(&ipv4, "ipv4", true, "Whether containers get IPv4 addresses")
	f.BoolVar(&ipv6, "ipv6", false, "Whether containers get IPv6 addresses")
	f.BoolVar(&o.Attachable, "attachable", false, "Containers can be connected by hand")
	f.BoolVar(&o.Ingress, "ingress", false, "Make the routing mesh of a swarm")
	f.StringVar(&o.Scope, "scope", "", "Scope of the network")
	f.BoolVar(&o.ConfigOnly, "config-only", false, "Only keep the configuration, for other networks")
	f.StringVar(&o.ConfigFrom, "config-from", "", "Network whose configuration is used")
	f.StringVar(&a.driver, "ipam-driver", "default", "Driver that gives out addresses")
	f.StringSliceVar(&a.subnets, "subnet", nil, "Subnet of the network, in CIDR form")
	f.StringSliceVar(&a.ranges, "ip-range", nil, "Part of the subnet that containers' addresses come from")
	f.StringSliceVar(&a.gateways, "gateway", nil, "Gateway of the subnet, IPv4 or IPv6")
	f.Var(&a.auxiliary, "aux-address", "Address that the network driver uses, by name")
	f.Var(&a.options, "ipam-opt", "Option of the driver that gives out addresses")
	_ = cmd.RegisterFlagCompletionFunc("driver", shell.Complete(sh, 0, drivers))
	_ = cmd.RegisterFlagCompletionFunc("ipam-driver", shell.Complete(sh, 0, addressDrivers))
	return cmd
}

// ipam sorts ranges, gateways and auxiliary addresses to the subnets that they
// lie in.
func (a *addressing) ipam() (*network.IPAM, error) {
	if len(a.subnets) < len(a.ranges) || len(a.subnets) < len(a.gateways) {
		return nil, errors.New("every ip-range or gateway must have a corresponding subnet")
	}
	for _, s := range a.subnets {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, notAddress("subnet", s, "/")
		}
		for _, have := range a.subnet {
			if have.Subnet.Overlaps(p) {
				return nil, errors.New("multiple overlapping subnet configuration is not supported")
			}
		}
		a.subnet = append(a.subnet, network.IPAMConfig{Subnet: p, AuxAddress: map[string]netip.Addr{}})
	}
	for _, r := range a.ranges {
		p, err := netip.ParsePrefix(r)
		if err != nil {
			return nil, notAddress("ip-range", r, "/")
		}
		c := a.holding(p.Addr())
		switch {
		case c == nil:
			return nil, fmt.Errorf("no matching subnet for range %s", r)
		case c.IPRange.IsValid():
			return nil, fmt.Errorf("cannot configure multiple ranges (%s, %s) on the same subnet (%s)", r, c.IPRange, c.Subnet)
		}
		c.IPRange = p
	}
	for _, g := range a.gateways {
		addr, err := netip.ParseAddr(g)
		if err != nil {
			return nil, notAddress("gateway", g, "")
		}
		c := a.holding(addr)
		switch {
		case c == nil:
			return nil, fmt.Errorf("no matching subnet for gateway %s", g)
		case c.Gateway.IsValid():
			return nil, fmt.Errorf("cannot configure multiple gateways (%s, %s) for the same subnet (%s)", g, c.Gateway, c.Subnet)
		}
		c.Gateway = addr
	}
	for name, text := range a.auxiliary.GetAll() {
		if text == "" {
			continue
		}
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil, notAddress("aux-address", text, "")
		}
		c := a.holding(addr)
		if c == nil {
			return nil, fmt.Errorf("no matching subnet for aux-address %s", text)
		}
		c.AuxAddress[name] = addr
	}
	return &network.IPAM{Driver: a.driver, Config: a.subnet, Options: a.options.GetAll()}, nil
}

func (a *addressing) holding(addr netip.Addr) *network.IPAMConfig {
	for i := range a.subnet {
		if a.subnet[i].Subnet.Contains(addr) {
			return &a.subnet[i]
		}
	}
	return nil
}

// notAddress says that the value of a flag is no address, or with sep "/" no
// address with a prefix length.
func notAddress(flag, text, sep string) error {
	if sep != "" && !strings.Contains(text, sep) {
		return fmt.Errorf("invalid %s %s: no '/'", flag, text)
	}
	return fmt.Errorf("invalid %s %s: no IP address", flag, text)
}
