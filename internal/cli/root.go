package cli

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/wherry-engine/wherry/internal/cli/account"
	"github.com/wherry-engine/wherry/internal/cli/container"
	"github.com/wherry-engine/wherry/internal/cli/contexts"
	"github.com/wherry-engine/wherry/internal/cli/files"
	"github.com/wherry-engine/wherry/internal/cli/image"
	"github.com/wherry-engine/wherry/internal/cli/network"
	"github.com/wherry-engine/wherry/internal/cli/secret"
	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/system"
	"github.com/wherry-engine/wherry/internal/cli/volume"
)

// verb is one command at the top level.
type verb struct {
	name string
	make func(*shell.Shell) *cobra.Command
}

// common verbs come first in help, in this order.
var common = []verb{
	{"run", container.NewRun}, {"exec", container.NewExec}, {"ps", container.NewPs}, {"build", newElsewhere("build")},
	{"pull", image.NewPull}, {"push", image.NewPush}, {"login", account.NewLogin}, {"logout", account.NewLogout}, {"search", image.NewSearch}, {"images", image.NewImages}, {"version", system.NewVersion}, {"info", system.NewInfo},
}

// plain verbs are the rest.
var plain = []verb{
	{"attach", container.NewAttach}, {"commit", files.NewCommit}, {"cp", files.NewCp}, {"create", container.NewCreate}, {"diff", files.NewDiff}, {"events", system.NewEvents}, {"export", files.NewExport},
	{"history", image.NewHistory}, {"import", image.NewImport}, {"inspect", system.NewInspect},
	{"kill", container.NewKill}, {"load", image.NewLoad}, {"logs", container.NewLogs},
	{"pause", container.NewPause}, {"port", container.NewPort}, {"rename", container.NewRename},
	{"restart", container.NewRestart}, {"rm", container.NewRm}, {"rmi", image.NewRmi},
	{"save", image.NewSave}, {"start", container.NewStart}, {"stats", container.NewStats}, {"stop", container.NewStop},
	{"tag", image.NewTag}, {"top", container.NewTop}, {"unpause", container.NewUnpause},
	{"update", container.NewUpdate}, {"wait", container.NewWait}, {"why", container.NewWhy},
}

// groups of verbs about one kind of object.
var groups = []verb{
	{"compose", newCompose},
	{"container", func(sh *shell.Shell) *cobra.Command {
		return group("container", "Manage containers", append(container.Commands(sh), files.Commands(sh)...))
	}},
	{"context", func(sh *shell.Shell) *cobra.Command {
		return group("context", "Manage contexts", contexts.Commands(sh))
	}},
	{"builder", newElsewhere("builder")}, {"buildx", newElsewhere("buildx")},
	{"image", func(sh *shell.Shell) *cobra.Command {
		return group("image", "Manage images", append(image.Commands(sh), newElsewhere("build")(sh)))
	}},
	{"secret", func(sh *shell.Shell) *cobra.Command {
		return group("secret", "Manage secrets of containers", secret.Commands(sh))
	}},
	{"network", func(sh *shell.Shell) *cobra.Command {
		return group("network", "Manage networks", network.Commands(sh))
	}},
	{"system", func(sh *shell.Shell) *cobra.Command {
		return group("system", "Manage the engine", system.Commands(sh))
	}},
	{"volume", func(sh *shell.Shell) *cobra.Command {
		return group("volume", "Manage volumes", volume.Commands(sh))
	}},
}

func group(name, short string, verbs []*cobra.Command) *cobra.Command {
	g := &cobra.Command{
		Use: name, Short: short, Args: shell.NoArgs, Annotations: map[string]string{"category": categoryGroup},
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(cmd.ErrOrStderr())
			return cmd.Help()
		},
	}
	for _, v := range verbs {
		v.DisableFlagsInUseLine = true
		g.AddCommand(v)
	}
	return g
}

func newRoot(sh *shell.Shell, args []string) *cobra.Command {
	root := &cobra.Command{
		Use:              sh.Name + " [OPTIONS] COMMAND [ARG...]",
		Short:            "Containers, images and what they need, on this or another machine",
		SilenceUsage:     true,
		SilenceErrors:    true,
		TraverseChildren: true,

		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if v, _ := cmd.Flags().GetBool("version"); v {
				fmt.Fprintf(sh.Out, "%s version %s, build %s\n", strings.ToUpper(sh.Name[:1])+sh.Name[1:], sh.Build.Version, sh.Build.Commit)
				return nil
			}
			if len(args) == 0 {
				cmd.SetOut(sh.Err)
				return cmd.Help()
			}
			return unknown(sh.Name, args[0])
		},
		PersistentPreRunE: func(*cobra.Command, []string) error { return checkGlobal(&sh.Global) },
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	addGlobal(root.Flags(), sh)
	_ = root.RegisterFlagCompletionFunc("context", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return sh.Contexts(), cobra.ShellCompDirectiveNoFileComp
	})
	p := root.PersistentFlags()
	p.BoolP("help", "h", false, "Print usage")
	_ = p.MarkShorthandDeprecated("help", "use --help")
	p.Lookup("help").Hidden = true
	root.SetOut(sh.Out)
	root.SetErr(sh.Err)
	root.SetFlagErrorFunc(flagError)
	root.SetUsageFunc(func(cmd *cobra.Command) error {
		_, err := io.WriteString(cmd.OutOrStderr(), helpText(cmd, sh.In.Width()))
		return err
	})
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { help(sh, cmd) })
	root.SetHelpCommand(helpCommand())
	addVerbs(root, sh, args)
	return root
}

// addVerbs adds the verb that args name, or all of them when it is not plain
// which one that is: most of the time of a short command line would go into
// flags of verbs that nobody asked for.
func addVerbs(root *cobra.Command, sh *shell.Shell, args []string) {
	name := firstWord(root.Flags(), args)
	for _, set := range []struct {
		verbs    []verb
		category string
	}{{common, categoryCommon}, {groups, categoryGroup}, {plain, ""}} {
		for _, v := range set.verbs {
			if name != "" && v.name != name {
				continue
			}
			cmd := v.make(sh)
			cmd.DisableFlagsInUseLine = true
			if set.category != "" {
				if cmd.Annotations == nil {
					cmd.Annotations = map[string]string{}
				}
				cmd.Annotations["category"] = set.category
			}
			root.AddCommand(cmd)
		}
	}
}

// firstWord returns the verb in args, or "" if there is none that is known or
// the global flags in front of it are not simple to step over.
func firstWord(f *pflag.FlagSet, args []string) string {
	for i := 0; i < len(args); i++ {
		a := args[i]
		var flag *pflag.Flag
		switch {
		case strings.HasPrefix(a, "--") && strings.Contains(a, "="):
			continue
		case strings.HasPrefix(a, "--"):
			flag = f.Lookup(a[2:])
		case strings.HasPrefix(a, "-") && len(a) == 2:
			flag = f.ShorthandLookup(a[1:])
		case strings.HasPrefix(a, "-"):
			return ""
		default:
			for _, set := range [][]verb{common, plain, groups} {
				for _, v := range set {
					if v.name == a {
						return a
					}
				}
			}
			return ""
		}
		if flag == nil {
			return ""
		}
		if flag.NoOptDefVal == "" {
			i++ // its value
		}
	}
	return ""
}

func addGlobal(f *pflag.FlagSet, sh *shell.Shell) {
	g := &sh.Global
	dir := shell.DefaultConfigDir()
	pem := func(name string) string { return fmt.Sprintf(" (default %q)", filepath.Join(dir, name)) }
	f.SetInterspersed(false)
	f.BoolP("version", "v", false, "Print version information and quit")
	f.StringVar(&g.ConfigDir, "config", dir, "Directory of the client's configuration")
	f.StringVarP(&g.Context, "context", "c", "", "Context to connect by, in place of DOCKER_HOST and of the context set as current")
	f.BoolVarP(&g.Debug, "debug", "D", false, "Enable debug mode")
	f.VarP(&hosts{g}, "host", "H", "Engine socket to connect to")
	f.StringVarP(&g.LogLevel, "log-level", "l", "info", `Logging level ("debug", "info", "warn", "error", "fatal")`)
	f.BoolVar(&g.TLS, "tls", false, "Use TLS; --tlsverify does so too")
	f.BoolVar(&g.TLSVerify, "tlsverify", false, "Use TLS and verify the remote")
	f.StringVar(&g.TLSCACert, "tlscacert", "", "CA whose signature is trusted"+pem("ca.pem"))
	f.StringVar(&g.TLSCert, "tlscert", "", "TLS certificate file"+pem("cert.pem"))
	f.StringVar(&g.TLSKey, "tlskey", "", "TLS key file"+pem("key.pem"))
}

// hosts collects -H, so that a second one can be refused when connecting.
type hosts struct{ g *shell.Global }

func (h *hosts) String() string { return "" }
func (h *hosts) Type() string   { return "list" }
func (h *hosts) Set(v string) error {
	h.g.Hosts = append(h.g.Hosts, v)
	return nil
}

func checkGlobal(g *shell.Global) error {
	if len(g.Hosts) > 0 && g.Context != "" {
		return errors.New("conflicting options: cannot specify both --host and --context")
	}
	switch g.LogLevel {
	case "trace", "debug":
		g.Debug = true
	case "info", "warn", "warning", "error", "fatal", "panic":
	default:
		return fmt.Errorf("Unable to parse logging level: %s", g.LogLevel)
	}
	return nil
}
