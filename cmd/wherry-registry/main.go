// Command wherry-registry is an OCI distribution server.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/registry"
)

var version, commit = "unknown", "unknown" // set by the linker

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "wherry-registry:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{Use: "wherry-registry", Short: "An OCI distribution server", Version: version + ", build " + commit,
		SilenceUsage: true, SilenceErrors: true, CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true}}
	root.AddCommand(serve(), collect(), image())
	return root
}

// file takes the one argument that serve and garbage-collect may have.
func file(o *registry.Options, args []string) {
	if len(args) == 1 {
		o.File = args[0]
	}
}

func serve() *cobra.Command {
	var o registry.Options
	cmd := &cobra.Command{Use: "serve [CONFIG.YML]", Short: "Serve images", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file(&o, args)
			return registry.Serve(cmd.Context(), o, cmd.OutOrStdout())
		}}
	f := cmd.Flags()
	f.StringVar(&o.Addr, "addr", "", "Address to listen at (default \":5000\")")
	f.StringVar(&o.Data, "data", "", "Directory of the images (default \"/var/lib/registry\")")
	f.StringVar(&o.TLSCert, "tls-cert", "", "Certificate file")
	f.StringVar(&o.TLSKey, "tls-key", "", "Key file")
	f.StringVar(&o.HTPasswd, "htpasswd", "", "File of users and bcrypt passwords")
	f.StringVar(&o.TokenRealm, "token-realm", "", "Address of the server that gives out tokens")
	f.StringVar(&o.TokenService, "token-service", "", "What that server calls this registry")
	f.StringVar(&o.TokenIssuer, "token-issuer", "", "Name of who signs the tokens")
	f.StringVar(&o.TokenCert, "token-cert", "", "File of the certificates whose keys sign the tokens")
	f.StringVar(&o.Proxy, "proxy", "", "Address of the registry to be a cache of")
	f.StringVar(&o.ProxyUser, "proxy-user", "", "User at that registry")
	f.StringVar(&o.ProxyPassword, "proxy-password", os.Getenv("REGISTRY_PROXY_PASSWORD"), "Password at that registry; better given as REGISTRY_PROXY_PASSWORD")
	f.StringVar(&o.DebugAddr, "debug-addr", "", "Address at which /debug/health and /metrics are answered")
	f.BoolVar(&o.Delete, "delete", false, "Allow images to be deleted")
	f.StringVar(&o.GC, "gc", "", "Remove blobs that no image needs while serving: on or off (default on, if the images are in a directory and no Redis remembers them)")
	f.DurationVar(&o.GCGrace, "gc-grace", registry.DefaultGrace, "How long such a blob is kept for an image that may come")
	f.BoolVarP(&o.Verbose, "verbose", "v", false, "Log every request")
	f.Lookup("proxy-password").DefValue = ""
	return cmd
}

func collect() *cobra.Command {
	var o registry.Options
	var dryRun, untagged bool
	cmd := &cobra.Command{Use: "garbage-collect [CONFIG.YML]", Short: "Remove what no image needs; the server must not run", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file(&o, args)
			return registry.Collect(cmd.Context(), o, dryRun, untagged, cmd.OutOrStdout())
		}}
	f := cmd.Flags()
	f.StringVar(&o.Data, "data", "", "Directory of the images (default \"/var/lib/registry\")")
	f.BoolVarP(&dryRun, "dry-run", "d", false, "Only say what would be removed")
	f.BoolVarP(&untagged, "delete-untagged", "m", false, "Remove images that no tag refers to, too")
	return cmd
}

func image() *cobra.Command {
	var names []string
	cmd := &cobra.Command{Use: "image", Short: "Write this program as an image that can be loaded", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if s, err := os.Stdout.Stat(); err == nil && s.Mode()&os.ModeCharDevice != 0 {
				return fmt.Errorf("cowardly refusing to write an archive to a terminal: use a pipe, as in `wherry-registry image | wherry load`")
			}
			return registry.Image(cmd.OutOrStdout(), names)
		}}
	cmd.Flags().StringSliceVar(&names, "tag", []string{"registry:latest"}, "Names of the image")
	return cmd
}
