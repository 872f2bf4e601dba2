package container

import (
	"context"
	"slices"
	"strings"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/image"
	"github.com/wherry-engine/wherry/internal/cli/network"
	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/volume"
)

// psFilters are the filters of ps with what they are compared with.
var psFilters = map[string]shell.Names{
	"ancestor": image.Names, "before": all, "exited": nil, "expose": nil, "health": shell.Fixed("healthy", "none", "starting", "unhealthy"), "id": nil,
	"label": nil, "name": all, "network": network.Names, "publish": nil, "since": all,
	"status": shell.Fixed("created", "dead", "exited", "paused", "removing", "restarting", "running"), "volume": volume.Names,
}

// spreads are the ways in which mounts spread.
var spreads = []string{"private", "rprivate", "rshared", "rslave", "shared", "slave"}

// mountKeys are the fields of --mount by type, and those of all.
var mountKeys = map[string]map[string]shell.Names{
	"": {"type": shell.Fixed("bind", "image", "tmpfs", "volume"), "target": nil, "readonly": shell.Bools},
	"bind": {
		"source": nil, "bind-create-src": shell.Bools, "bind-propagation": shell.Fixed(spreads...),
		"bind-recursive": shell.Fixed("disabled", "enabled", "readonly", "writable"), "idmap": nil,
	},
	"image": {"source": image.Names, "image-subpath": nil},
	"tmpfs": {"tmpfs-mode": nil, "tmpfs-size": nil},
	"volume": {
		"source": volume.Names, "volume-driver": volume.Drivers, "volume-label": nil, "volume-nocopy": shell.Bools,
		"volume-opt": shell.Fixed("device=", "o=", "type="), "volume-subpath": nil, "idmap": nil,
	},
}

// completeMount completes --mount: the fields that its type has and that are not
// there yet, and their values.
func completeMount(sh *shell.Shell) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		before, last := "", typed
		if i := strings.LastIndexByte(typed, ','); i >= 0 {
			before, last = typed[:i+1], typed[i+1:]
		}
		have := map[string]string{}
		for field := range strings.SplitSeq(before, ",") {
			key, value, _ := strings.Cut(field, "=")
			have[map[string]string{"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}[key]] = value
			have[key] = value
		}
		kind := have["type"]
		if kind == "" {
			kind = "volume" // as the engine takes it
		}
		values := map[string]shell.Names{}
		for _, of := range []string{"", kind} {
			for key, names := range mountKeys[of] {
				if _, given := have[key]; !given || key == "volume-opt" || key == "volume-label" {
					values[key] = names
				}
			}
		}
		if before == "" && !strings.Contains(last, "=") {
			values = map[string]shell.Names{"type": values["type"]} // what can follow depends on it
		}
		if key, _, _ := strings.Cut(last, "="); kind == "bind" && (key == "source" || key == "src") && key != last {
			return nil, cobra.ShellCompDirectiveDefault // a file of this machine
		}
		for short, long := range map[string]string{"src": "source", "ro": "readonly"} {
			if strings.HasPrefix(last, short+"=") {
				values[short] = values[long]
			}
		}
		list, directive := shell.Pair(sh, cmd, before, last, values)
		return list, directive | cobra.ShellCompDirectiveNoSpace // more may follow a comma
	}
}

// completeVolume completes -v: volumes, or a path of this machine; the path in
// the container is the user's; then the options.
func completeVolume(sh *shell.Shell) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		switch fields := strings.Split(typed, ":"); {
		case len(fields) == 1 && strings.ContainsAny(typed[:min(1, len(typed))], "/.~"):
			return nil, cobra.ShellCompDirectiveDefault
		case len(fields) == 1:
			out, directive := shell.Complete(sh, 0, func(ctx context.Context, api client.APIClient) ([]string, error) {
				list, err := volume.Names(ctx, api)
				for i, name := range list {
					list[i] = name + ":"
				}
				return list, err
			})(cmd, nil, typed)
			return out, directive | cobra.ShellCompDirectiveNoSpace
		case len(fields) == 3:
			before, given := strings.Join(fields[:2], ":")+":", strings.Split(fields[2], ",")
			options := []string{"ro", "rw", "idmap"}
			if strings.ContainsAny(fields[0][:min(1, len(fields[0]))], "/.~") {
				options = append(options, spreads...)
			} else {
				options = append(options, "nocopy")
			}
			given = given[:len(given)-1]
			for _, o := range given {
				before += o + ","
			}
			var out []string
			for _, o := range options {
				if !slices.Contains(given, o) {
					out = append(out, before+o)
				}
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}
