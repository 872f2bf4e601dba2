package container

import (
	"fmt"
	"net"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/docker/go-connections/nat"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/wherry-engine/wherry/api"
	"github.com/wherry-engine/wherry/internal/cli/runopts"
)

// liveUpdate are the flags of update that docker has not: what a container
// publishes and how it is called, also while it runs.
type liveUpdate struct {
	publish, unpublish, aliasAdd, aliasRm opts.ListOpts
}

var liveFlags = []string{"publish-add", "publish-rm", "network-alias-add", "network-alias-rm"}

func (n *liveUpdate) flags(cmd *cobra.Command) {
	for _, l := range []*opts.ListOpts{&n.publish, &n.unpublish, &n.aliasAdd, &n.aliasRm} {
		*l = opts.NewListOpts(nil)
	}
	f := cmd.Flags()
	f.Var(&n.publish, "publish-add", "Publish a further port, as -p of run; the container may be running")
	f.Var(&n.unpublish, "publish-rm", "Publish a port of the host no more ([ip:]port[:container-port][/proto])")
	f.Var(&n.aliasAdd, "network-alias-add", "Add a network-scoped alias ([network=]alias)")
	f.Var(&n.aliasRm, "network-alias-rm", "Remove a network-scoped alias ([network=]alias)")
}

// alone reports whether nothing else is to be updated.
func (n *liveUpdate) alone(f *pflag.FlagSet) bool {
	others := 0
	f.Visit(func(flag *pflag.Flag) { others++ })
	for _, name := range liveFlags {
		if f.Changed(name) {
			others--
		}
	}
	return others == 0
}

// update is the request; nil when none of the flags was given.
func (n *liveUpdate) update() (*api.NetworkUpdate, error) {
	if n.publish.Len()+n.unpublish.Len()+n.aliasAdd.Len()+n.aliasRm.Len() == 0 {
		return nil, nil
	}
	u := &api.NetworkUpdate{AliasAdd: aliasesOf(n.aliasAdd.GetSlice()), AliasRemove: aliasesOf(n.aliasRm.GetSlice())}
	var err error
	if u.PublishAdd, err = runopts.PortBindings(n.publish.GetSlice()); err != nil {
		return nil, err
	}
	for _, text := range n.unpublish.GetSlice() {
		list, err := published(text)
		if err != nil {
			return nil, err
		}
		u.PublishRemove = append(u.PublishRemove, list...)
	}
	return u, nil
}

func aliasesOf(list []string) map[string][]string {
	out := map[string][]string{}
	for _, text := range list {
		net, alias, ok := strings.Cut(text, "=")
		if !ok {
			net, alias = "", text
		}
		out[net] = append(out[net], alias)
	}
	return out
}

// published reads [ip:]port[:container-port][/proto]; ports may be ranges of the same length.
func published(text string) ([]api.PublishedPort, error) {
	bad := fmt.Errorf("invalid port to publish no more: %q: expected [ip:]port[:container-port][/proto]", text)
	rest, proto, _ := strings.Cut(text, "/")
	if proto == "" {
		proto = "tcp"
	}
	ip, host, inner := "", rest, ""
	if strings.HasPrefix(rest, "[") { // IPv6
		end := strings.Index(rest, "]:")
		if end < 0 {
			return nil, bad
		}
		ip, host = rest[1:end], rest[end+2:]
	} else if parts := strings.Split(rest, ":"); net.ParseIP(parts[0]) != nil && len(parts) > 1 {
		ip, host = parts[0], strings.Join(parts[1:], ":")
	}
	host, inner, _ = strings.Cut(host, ":")
	from, to, err := nat.ParsePortRange(host)
	if err != nil || from == 0 {
		return nil, bad
	}
	var first, last uint64
	if inner != "" {
		if first, last, err = nat.ParsePortRange(inner); err != nil || last-first != to-from {
			return nil, bad
		}
	}
	var out []api.PublishedPort
	for i := uint64(0); i <= to-from; i++ {
		p := api.PublishedPort{HostIP: ip, HostPort: uint16(from + i), Proto: proto}
		if inner != "" {
			p.ContainerPort = uint16(first + i)
		}
		out = append(out, p)
	}
	return out, nil
}
