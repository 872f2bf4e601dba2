package query

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
)

func itoa(n int) string { return strconv.Itoa(n) }

func join(dirs []string) string { return strings.Join(dirs, ":") }

// psArgs is what may be handed to ps: its options, and nothing that another
// program would take for more than that.
var psArgs = regexp.MustCompile(`^[-A-Za-z0-9_ ,=%:+.]*$`)

// Top lists a container's processes with the host's ps, whose options the user
// gives ("" is -ef). The pids are the host's.
func (v *View) Top(ctx context.Context, ref, options string) (*apicontainer.TopResponse, error) {
	c, err := v.store.Get(ref)
	if err != nil {
		return nil, err
	}
	r := c.Snapshot()
	switch {
	case !r.State.Running:
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("container %s is not running", r.ID))
	case r.State.Restarting:
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("Container %s is restarting, wait until the container is running", r.ID))
	}
	if options == "" {
		options = "-ef"
	}
	if !psArgs.MatchString(options) {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("ps arguments %q have characters that are not allowed", options))
	}
	group, err := v.cgroups.Open(r.CgroupPath)
	if err != nil {
		return nil, err
	}
	pids, err := group.PIDs()
	if err != nil {
		return nil, err
	}
	mine := map[int]bool{}
	for _, p := range pids {
		mine[p] = true
	}
	out, err := exec.CommandContext(ctx, "ps", strings.Fields(options)...).Output()
	if err != nil {
		var x *exec.ExitError
		if errors.As(err, &x) && len(x.Stderr) > 0 {
			first, _, _ := strings.Cut(string(x.Stderr), "\n")
			return nil, errdefs.ErrInvalidArgument.WithMessage("ps: " + first)
		}
		return nil, fmt.Errorf("ps: %w", err)
	}
	list, err := parsePS(string(out), mine)
	if err == nil {
		v.events.Container(events.ActionTop, r.ID, r.Attributes(nil))
	}
	return list, err
}

// parsePS keeps the lines of the container's processes. The last column may
// hold blanks; a line without a pid of its own belongs to the one before it
// (ps prints threads so with some options).
func parsePS(out string, mine map[int]bool) (*apicontainer.TopResponse, error) {
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	titles := strings.Fields(lines[0])
	pidColumn := -1
	for i, t := range titles {
		if t == "PID" {
			pidColumn = i
		}
	}
	if pidColumn < 0 {
		return nil, errdefs.ErrInvalidArgument.WithMessage("Couldn't find PID field in ps output")
	}
	resp := &apicontainer.TopResponse{Titles: titles, Processes: [][]string{}}
	keep := false
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) <= pidColumn {
			continue
		}
		if fields[pidColumn] != "-" {
			pid, err := strconv.Atoi(fields[pidColumn])
			if err != nil {
				return nil, fmt.Errorf("unexpected pid '%s': %w", fields[pidColumn], err)
			}
			keep = mine[pid]
		}
		if !keep {
			continue
		}
		if n := len(titles); len(fields) > n {
			fields = append(fields[:n-1:n-1], strings.Join(fields[n-1:], " "))
		}
		resp.Processes = append(resp.Processes, fields)
	}
	return resp, nil
}
