package shell

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// Fixed are candidates that no engine has to be asked for.
func Fixed(words ...string) Names {
	return func(context.Context, client.APIClient) ([]string, error) { return words, nil }
}

// Bools are the values of what is true or false.
var Bools = Fixed("false", "true")

// CompleteFilter completes a flag whose values are key=value: first the keys,
// then what a key can be compared with. A key with nil is compared with anything.
func CompleteFilter(sh *Shell, cmd *cobra.Command, flag string, values map[string]Names) {
	_ = cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return Pair(sh, cmd, "", typed, values)
	})
}

// Pair completes the key=value that typed is the beginning of. before is put
// before each candidate: a shell replaces the whole word.
func Pair(sh *Shell, cmd *cobra.Command, before, typed string, values map[string]Names) ([]string, cobra.ShellCompDirective) {
	key, _, ok := strings.Cut(typed, "=")
	if !ok {
		keys := slices.Sorted(maps.Keys(values))
		for i, k := range keys {
			keys[i] = before + k + "="
		}
		return keys, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
	names := values[key]
	if names == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, directive := Complete(sh, 0, names)(cmd, nil, "")
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = before + key + "=" + v
	}
	return out, directive
}
