// Package system owns the verbs about the engine as a whole and the verbs
// that look at objects of any type.
package system

import (
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// Commands returns the verbs for the `system` group.
func Commands(sh *shell.Shell) []*cobra.Command {
	return []*cobra.Command{NewCerts(sh), NewDf(sh), NewDialStdio(sh), NewEvents(sh), NewInfo(sh), NewPrune(sh)}
}
