// Command wherry-build is wherry with the verbs about builds in it. It is
// started by wherry, which stays small and quick without them, and answers to
// the same command lines.
package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli"
	"github.com/wherry-engine/wherry/internal/cli/build"
	"github.com/wherry-engine/wherry/internal/cli/shell"
	_ "github.com/wherry-engine/wherry/internal/grpcbuffers" // for files
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
	group := func(name string) func(*shell.Shell) *cobra.Command {
		return func(sh *shell.Shell) *cobra.Command { return build.NewBuilder(sh, name) }
	}
	os.Exit(cli.Main(name, shell.Build{Version: version, Commit: commit, Time: built}, os.Args[1:],
		cli.Verb{Path: "build", Make: build.NewBuild},
		cli.Verb{Path: "image build", Make: build.NewBuild},
		cli.Verb{Path: "builder", Make: group("builder")},
		cli.Verb{Path: "buildx", Make: group("buildx")},
	))
}
