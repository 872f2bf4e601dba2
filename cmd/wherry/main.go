// Command wherry is the client of the engine; through a link named docker it
// answers as docker's own.
package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/wherry-engine/wherry/internal/cli"
	_ "github.com/wherry-engine/wherry/internal/cli/early" // hands builds over before all else
	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// Set by the linker.
var (
	version = "unknown"
	commit  = "unknown"
	built   = "unknown"
)

func main() {
	name := "wherry"
	if base := filepath.Base(os.Args[0]); strings.HasPrefix(base, "docker") {
		name = "docker"
	}
	os.Exit(cli.Main(name, shell.Build{Version: version, Commit: commit, Time: built}, os.Args[1:]))
}
