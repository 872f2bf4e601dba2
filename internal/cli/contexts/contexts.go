// Package contexts owns the verbs about contexts: named addresses of engines, in
// the store that docker's client has, so that both use the same ones.
package contexts

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/docker/cli/cli/command/formatter"
	dockercontext "github.com/docker/cli/cli/context"
	"github.com/docker/cli/cli/context/store"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

const (
	endpoint           = "docker" // the only kind of endpoint
	defaultDescription = "Current DOCKER_HOST based configuration"
)

// Commands returns the verbs for the `context` group.
func Commands(sh *shell.Shell) []*cobra.Command {
	return []*cobra.Command{newCreate(sh), newExport(sh), newImport(sh), newInspect(sh), newLs(sh), newRm(sh), newShow(sh), newUpdate(sh), newUse(sh)}
}

func open(sh *shell.Shell) *store.ContextStore {
	return store.New(sh.ContextDir(), store.NewConfig(
		func() any { return &map[string]any{} },
		store.EndpointTypeGetter(endpoint, func() any { return &dockercontext.EndpointMetaBase{} }),
	))
}

// names are those of contexts, for completion.
func names(sh *shell.Shell) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return sh.Contexts(), cobra.ShellCompDirectiveNoFileComp
	}
}

// description is what the user said of a context.
func description(m store.Metadata) string {
	fields, _ := m.Metadata.(map[string]any)
	text, _ := fields["Description"].(string)
	return text
}

func describe(m *store.Metadata, text string) {
	fields, _ := m.Metadata.(map[string]any)
	if fields == nil {
		fields = map[string]any{}
	}
	if delete(fields, "Description"); text != "" {
		fields["Description"] = text
	}
	m.Metadata = fields
}

// host is where a context leads.
func host(m store.Metadata) string {
	e, _ := m.Endpoints[endpoint].(dockercontext.EndpointMetaBase)
	return e.Host
}

// own is the context made of flags and environment, which no file has.
func own(sh *shell.Shell) (store.Metadata, *shell.Endpoint, error) {
	ep, err := sh.Default()
	if err != nil {
		return store.Metadata{}, nil, err
	}
	return store.Metadata{
		Name: shell.DefaultContext, Metadata: map[string]any{},
		Endpoints: map[string]any{endpoint: dockercontext.EndpointMetaBase{Host: ep.Host, SkipTLSVerify: ep.TLS && !ep.Verify}},
	}, ep, nil
}

// get is a context by its name, with where its files are.
func get(sh *shell.Shell, name string) (store.Metadata, error) {
	if name == shell.DefaultContext {
		m, _, err := own(sh)
		return m, err
	}
	return open(sh).GetMetadata(name)
}

// valid refuses names that a new context cannot have.
func valid(sh *shell.Shell, name string) error {
	if name == shell.DefaultContext {
		return errors.New(`"default" is a reserved context name`)
	}
	if err := store.ValidateContextName(name); err != nil {
		return err
	}
	if _, err := open(sh).GetMetadata(name); err == nil {
		return fmt.Errorf("context %q already exists", name)
	}
	return nil
}

func newShow(sh *shell.Shell) *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show which context is meant", Args: shell.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			sh.Println(sh.ContextName())
			return nil
		},
	}
}

func newLs(sh *shell.Shell) *cobra.Command {
	var quiet bool
	var format string
	cmd := &cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List contexts", Args: shell.NoArgs,
		Annotations: shell.Aliases("context ls", "context list"),
		RunE:        func(*cobra.Command, []string) error { return list(sh, format, quiet) },
	}
	cmd.Flags().StringVar(&format, "format", "", show.FormatHelp)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Only show context names")
	return cmd
}

func list(sh *shell.Shell, format string, quiet bool) error {
	current := sh.ContextName()
	rows := []*formatter.ClientContext{{Name: shell.DefaultContext, Description: defaultDescription, Current: current == shell.DefaultContext}}
	if m, _, err := own(sh); err != nil {
		rows[0].Error = err.Error()
	} else {
		rows[0].DockerEndpoint = host(m)
	}
	all, err := open(sh).List()
	if err != nil {
		return err
	}
	found := current == shell.DefaultContext
	for _, m := range all {
		r := &formatter.ClientContext{Name: m.Name, Description: description(m), DockerEndpoint: host(m), Current: m.Name == current}
		found = found || r.Current
		rows = append(rows, r)
	}
	if !found {
		_, err := get(sh, current)
		rows = append(rows, &formatter.ClientContext{Name: current, Current: true, Error: fmt.Sprint(err)})
	}
	slices.SortFunc(rows, func(a, b *formatter.ClientContext) int { return cmp.Compare(a.Name, b.Name) })
	if format == "" {
		format = formatter.TableFormatKey
	}
	if err := formatter.ClientContextWrite(formatter.Context{Output: sh.Out, Format: formatter.NewClientContextFormat(format, quiet)}, rows); err != nil {
		return err
	}
	if v := shell.HostVariable(); v != "" {
		fmt.Fprintf(sh.Err, "Warning: %[1]s environment variable overrides the active context. To use a context, either set the global --context flag, or unset %[1]s environment variable.\n", v)
	}
	return nil
}

func newUse(sh *shell.Shell) *cobra.Command {
	return &cobra.Command{
		Use: "use CONTEXT", Short: "Make a context the current one", Args: shell.ExactArgs(1), ValidArgsFunction: names(sh),
		RunE: func(_ *cobra.Command, args []string) error {
			name := args[0]
			if _, err := get(sh, name); err != nil {
				return err
			}
			if err := sh.Config().KeepContext(name); err != nil {
				return err
			}
			sh.Println(name)
			fmt.Fprintf(sh.Err, "Current context is now %q\n", name)
			switch v := shell.HostVariable(); {
			case name == shell.DefaultContext:
			case v != "":
				fmt.Fprintf(sh.Err, "Warning: %[1]s environment variable overrides the active context. To use %[2]q, either set the global --context flag, or unset %[1]s environment variable.\n", v, name)
			case sh.ContextName() == shell.DefaultContext:
				fmt.Fprintf(sh.Err, "Warning: the engine of this machine, %[1]s, is what %[2]s means by itself. To use %[3]q, set the global --context flag, or DOCKER_CONTEXT.\n", shell.DefaultHost, sh.Name, name)
			}
			return nil
		},
	}
}

func newRm(sh *shell.Shell) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rm CONTEXT [CONTEXT...]", Aliases: []string{"remove"}, Short: "Remove one or more contexts", Args: shell.MinArgs(1), ValidArgsFunction: names(sh),
		Annotations: shell.Aliases("context rm", "context remove"),
		RunE: func(_ *cobra.Command, args []string) error {
			var errs []string
			for _, name := range args {
				if err := remove(sh, name, force); err != nil {
					errs = append(errs, err.Error())
					continue
				}
				sh.Println(name)
			}
			if len(errs) > 0 {
				return errors.New(strings.Join(errs, "\n"))
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Also when it is the current one")
	return cmd
}

func remove(sh *shell.Shell, name string, force bool) error {
	if name == shell.DefaultContext {
		return errors.New(`context "default" cannot be removed`)
	}
	s := open(sh)
	if _, err := s.GetMetadata(name); err != nil {
		if force {
			return nil
		}
		return fmt.Errorf("context %q does not exist", name)
	}
	if name == sh.Config().CurrentContext || name == sh.ContextName() {
		if !force {
			return fmt.Errorf("context %q is in use, set -f flag to force remove", name)
		}
		if name == sh.Config().CurrentContext {
			if err := sh.Config().KeepContext(shell.DefaultContext); err != nil {
				return err
			}
		}
	}
	return s.Remove(name)
}

func newInspect(sh *shell.Shell) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "inspect [OPTIONS] [CONTEXT] [CONTEXT...]", Short: "Show contexts in detail", ValidArgsFunction: names(sh),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{sh.ContextName()}
			}
			return show.Inspect(sh.Out, args, format, func(name string) (any, []byte, error) {
				v, err := details(sh, name)
				if err != nil {
					return nil, nil, err
				}
				raw, err := json.Marshal(v)
				return v, raw, err
			})
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", show.FormatHelp)
	return cmd
}

// detail is what inspect tells.
type detail struct {
	store.Metadata
	TLSMaterial map[string]store.EndpointFiles
	Storage     store.StorageInfo
}

func details(sh *shell.Shell, name string) (*detail, error) {
	m, err := get(sh, name)
	if err != nil {
		return nil, err
	}
	if name == shell.DefaultContext {
		const nowhere = "<IN MEMORY>"
		return &detail{m, map[string]store.EndpointFiles{}, store.StorageInfo{MetadataPath: nowhere, TLSPath: nowhere}}, nil
	}
	s := open(sh)
	files, err := s.ListTLSFiles(name)
	if err != nil {
		return nil, err
	}
	return &detail{m, files, s.GetStorageInfo(name)}, nil
}

func newExport(sh *shell.Shell) *cobra.Command {
	return &cobra.Command{
		Use: "export [OPTIONS] CONTEXT [FILE|-]", Short: "Write a context into a file, to take it elsewhere", Args: shell.RangeArgs(1, 2), ValidArgsFunction: names(sh),
		RunE: func(_ *cobra.Command, args []string) error {
			name, file := args[0], args[0]+".dockercontext"
			if len(args) == 2 {
				file = args[1]
			}
			if name == shell.DefaultContext {
				return errors.New(`context "default" is the environment, it has no files to export; context create NAME makes one of it`)
			}
			if _, err := get(sh, name); err != nil {
				return err
			}
			r := store.Export(name, open(sh))
			defer r.Close()
			if file == "-" {
				if sh.Out.IsTerminal() {
					return errors.New("cowardly refusing to export to a terminal, specify a file path")
				}
				_, err := io.Copy(sh.Out, r)
				return err
			}
			f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			_, err = io.Copy(f, r)
			if cerr := f.Close(); err == nil {
				err = cerr
			}
			if err != nil {
				os.Remove(file)
				return err
			}
			fmt.Fprintf(sh.Err, "Written file %q\n", file)
			return nil
		},
	}
}

func newImport(sh *shell.Shell) *cobra.Command {
	return &cobra.Command{
		Use: "import CONTEXT FILE|-", Short: "Make a context of an exported file", Args: shell.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if err := valid(sh, name); err != nil {
				return err
			}
			var r io.Reader = sh.In
			if args[1] != "-" {
				f, err := os.Open(args[1])
				if err != nil {
					return err
				}
				defer f.Close()
				r = f
			}
			if err := store.Import(name, open(sh), r); err != nil {
				return err
			}
			sh.Println(name)
			fmt.Fprintf(sh.Err, "Successfully imported context %q\n", name)
			return nil
		},
	}
}
