package container

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"text/tabwriter"

	"github.com/docker/cli/cli/command/formatter"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	wherry "github.com/wherry-engine/wherry/client"
	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// writeReach is ps --reach: a line for each published port.
func (p *psFlags) writeReach(ctx context.Context, sh *shell.Shell, api client.APIClient, list []apicontainer.Summary) error {
	if p.quiet || p.size || p.format != "" {
		return errors.New("--reach goes with neither --quiet, --size nor --format")
	}
	reach, err := wherry.Reach(ctx, api)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(sh.Out, 10, 1, 3, ' ', 0)
	fmt.Fprintln(w, "CONTAINER ID\tNAMES\tPORT\tREACHABLE BY")
	for _, c := range list {
		id := c.ID
		if !p.noTrunc {
			id = formatter.TruncateID(id)
		}
		var names []string
		for _, n := range c.Names {
			if n = strings.TrimPrefix(n, "/"); !strings.Contains(n, "/") {
				names = append(names, n)
			}
		}
		for _, r := range reach[c.ID] {
			port := r.Port
			if r.HostPort != "" {
				port = net.JoinHostPort(r.HostIP, r.HostPort) + "->" + port
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", id, strings.Join(names, ","), port, r.From)
		}
	}
	return w.Flush()
}
