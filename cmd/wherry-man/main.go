// Command wherry-man writes the manual pages of wherry and wherryd into a
// directory, from the flags and texts of the programs themselves.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/wherry-engine/wherry/internal/cli"
	"github.com/wherry-engine/wherry/internal/cli/build"
	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/config"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: wherry-man DIRECTORY")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const daemonText = `The engine: it keeps images, containers, networks and volumes, and answers the
Docker Engine API. Containers outlive it in every way that it can end.

Settings come from flags and from /etc/wherry/daemon.json, with dockerd's names;
the same setting in both is an error. SIGHUP reads the file again, SIGTERM ends
the engine, SIGUSR1 writes the stacks of its goroutines into the exec root.`

// write puts man1 and man8 below dir.
func write(dir string) error {
	// Defaults that come from who builds are not everybody's.
	for k, v := range map[string]string{"HOME": "~", "DOCKER_CONFIG": "", "DOCKER_CERT_PATH": "", "DOCKER_TLS_VERIFY": ""} {
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	for _, section := range []string{"man1", "man8"} {
		if err := os.MkdirAll(filepath.Join(dir, section), 0o755); err != nil {
			return err
		}
	}
	builder := func(sh *shell.Shell) *cobra.Command { return build.NewBuilder(sh, "builder") }
	client := cli.Command(shell.New("wherry", shell.Build{}),
		cli.Verb{Path: "build", Make: build.NewBuild}, cli.Verb{Path: "image build", Make: build.NewBuild}, cli.Verb{Path: "builder", Make: builder})
	client.DisableAutoGenTag = true
	header := func(section string) *doc.GenManHeader {
		return &doc.GenManHeader{Section: section, Source: "Wherry", Manual: "Wherry manual"}
	}
	if err := doc.GenManTree(client, header("1"), filepath.Join(dir, "man1")); err != nil {
		return err
	}
	daemon := &cobra.Command{
		Use: "wherryd [OPTIONS]", Short: "container engine that speaks Docker", Long: daemonText,
		Run: func(*cobra.Command, []string) {}, DisableAutoGenTag: true, DisableFlagsInUseLine: true,
	}
	daemon.Flags().AddFlagSet(config.Flags())
	return doc.GenManTree(daemon, header("8"), filepath.Join(dir, "man8"))
}
