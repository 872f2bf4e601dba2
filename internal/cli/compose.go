package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

const composePlugin = "docker-compose"

// newCompose is `compose`: docker's plugin with the engine that is meant.
func newCompose(sh *shell.Shell) *cobra.Command {
	over := func(args []string) error { return runCompose(sh, args) }
	cmd := &cobra.Command{
		Use: "compose [OPTIONS] COMMAND", Short: "Docker Compose, where its plugin is installed", DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return over(args) },
	}
	cmd.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		if len(args) > 0 && args[0] == cmd.Name() {
			args = args[1:] // with --help it is the whole command line
		}
		if err := over(append([]string{"--help"}, args...)); err != nil {
			fmt.Fprintln(cmd.ErrOrStderr(), err)
		}
	})
	return cmd
}

// runCompose becomes the plugin. The engine is given as docker's client gives
// it: as flags in front of the plugin's name.
func runCompose(sh *shell.Shell, args []string) error {
	path, err := findPlugin(sh, composePlugin)
	if err != nil {
		return err
	}
	ep, err := sh.Endpoint()
	if err != nil {
		return err
	}
	all := []string{path}
	if ep.Context != shell.DefaultContext {
		all = append(all, "--context", ep.Context)
	} else {
		all = append(all, "--host", ep.Host)
		if ep.TLS {
			mode := "--tls"
			if ep.Verify {
				mode = "--tlsverify"
			}
			all = append(all, mode)
			for _, f := range [][2]string{{"--tlscacert", ep.CA}, {"--tlscert", ep.Cert}, {"--tlskey", ep.Key}} {
				if f[1] != "" {
					all = append(all, f[0], f[1])
				}
			}
		}
	}
	if sh.Global.ConfigDir != "" {
		all = append(all, "--config", sh.Global.ConfigDir)
	}
	all = append(append(all, "compose"), args...)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// What a plugin calls for more metadata of its own.
	env := append(os.Environ(), "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND="+self)
	return &shell.StatusError{Code: 126, Message: fmt.Sprintf("%s: %s: %v", sh.Name, path, become(path, all, env))}
}

// findPlugin looks where docker's client does.
func findPlugin(sh *shell.Shell, name string) (string, error) {
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	dirs := sh.PluginDirs()
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		st, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return "", err
		case st.IsDir() || runtime.GOOS != "windows" && st.Mode()&0o111 == 0:
			return "", fmt.Errorf("%s: %s is not a program: chmod +x it", sh.Name, path)
		default:
			return path, nil
		}
	}
	text := fmt.Sprintf(`%s: compose is a plugin of its own, and it is not installed here. To get it:

  - apt-get install docker-compose-plugin, from docker's package sources; or
  - build it, with Go:   git clone https://github.com/docker/compose && cd compose && go build -o %s ./cmd; or
  - download the file for this system from https://github.com/docker/compose/releases, name it
    %s and make it executable.

Debian's docker-compose package works with this engine too, on its own: DOCKER_HOST=%s docker-compose up`,
		sh.Name, filepath.Join(dirs[0], name), filepath.Join(dirs[0], name), shell.DefaultHost)
	return "", &shell.StatusError{Code: 1, Message: text}
}
