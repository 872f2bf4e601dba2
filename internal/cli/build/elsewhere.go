package build

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// elsewhere are buildx's verbs about records that are not here, with the reason.
var elsewhere = map[string]string{
	"export": "it makes a bundle for Docker Desktop; docker's client does it with this engine, too: docker buildx history export",
	"import": "it is for Docker Desktop, which shows the records of other machines; nothing here does",
	"open":   "it is for Docker Desktop; `history inspect` and `history logs` show a record",
	"trace":  "the engine records no traces of builds; `history logs` has the times of each step",
}

const (
	oneBuilder = `the engine has one builder, "default", which is always there; other engines are reached by -H or --context`
	dockers    = "docker's client does it with this engine, too: docker buildx "
)

// builders are buildx's own verbs that are not here.
var builders = map[string]string{
	"bake": dockers + "bake", "imagetools": dockers + "imagetools", "debug": dockers + "debug", "dial-stdio": dockers + "dial-stdio", "policy": dockers + "policy",
	"create": oneBuilder, "inspect": oneBuilder, "ls": oneBuilder, "rm": oneBuilder, "stop": oneBuilder, "use": oneBuilder,
	"version": "there is no buildx in it; `version` has the engine's version and that of the client",
}

// newElsewhere is a verb of a group that is not served, which says why.
func newElsewhere(sh *shell.Shell, group, name, why string) *cobra.Command {
	return &cobra.Command{
		Use: name, Hidden: true, DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return &shell.StatusError{Code: 1, Message: fmt.Sprintf("%s: %s %s is not served: %s", sh.Name, group, name, why)}
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}
