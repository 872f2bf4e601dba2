package contexts

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	dockercontext "github.com/docker/cli/cli/context"
	"github.com/docker/cli/cli/context/store"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

const endpointHelp = `

What --docker takes, separated by commas:
  host=ADDRESS           where the engine listens: tcp://, ssh:// or unix://
  ca=FILE                who signed its certificate
  cert=FILE, key=FILE    what the client shows of itself
  skip-tls-verify=true   do not ask who the engine is
  from=CONTEXT           all of it as that context has it`

// asked is what create and update are told.
type asked struct {
	description, from string
	docker            map[string]string
}

func (a *asked) add(f *pflag.FlagSet) {
	f.StringVar(&a.description, "description", "", "Description of the context")
	f.StringToStringVar(&a.docker, "docker", nil, "Address of the engine, and what it needs")
}

func newCreate(sh *shell.Shell) *cobra.Command {
	var a asked
	cmd := &cobra.Command{
		Use: "create [OPTIONS] CONTEXT", Short: "Create a context", Args: shell.ExactArgs(1),
		Long: "Create a context" + endpointHelp,
		RunE: func(_ *cobra.Command, args []string) error {
			if err := a.create(sh, args[0]); err != nil {
				return err
			}
			sh.Println(args[0])
			fmt.Fprintf(sh.Err, "Successfully created context %q\n", args[0])
			return nil
		},
	}
	a.add(cmd.Flags())
	cmd.Flags().StringVar(&a.from, "from", "", "Copy this context")
	return cmd
}

func (a *asked) create(sh *shell.Shell, name string) error {
	if err := valid(sh, name); err != nil {
		return err
	}
	m := store.Metadata{Name: name}
	describe(&m, a.description)
	var material *store.EndpointTLSData
	var err error
	switch {
	case a.docker == nil:
		from := a.from
		if from == "" {
			from = sh.ContextName() // what is meant now
		}
		var source store.Metadata
		if source, material, err = copyOf(sh, from); err != nil {
			return err
		}
		m.Endpoints = source.Endpoints
		if a.description == "" && from == shell.DefaultContext {
			describe(&m, defaultDescription)
		} else if a.description == "" {
			describe(&m, description(source))
		}
	case a.from != "":
		return errors.New("cannot use --docker flag when --from is set")
	default:
		if material, err = a.endpoint(sh, &m); err != nil {
			return fmt.Errorf("unable to create docker endpoint config: %w", err)
		}
	}
	return write(sh, m, material)
}

// write puts a context into the store.
func write(sh *shell.Shell, m store.Metadata, material *store.EndpointTLSData) error {
	s := open(sh)
	if err := s.CreateOrUpdate(m); err != nil {
		return err
	}
	return s.ResetEndpointTLSMaterial(m.Name, endpoint, material)
}

// copyOf is a context with the files of its endpoint.
func copyOf(sh *shell.Shell, name string) (store.Metadata, *store.EndpointTLSData, error) {
	if name == shell.DefaultContext {
		m, ep, err := own(sh)
		if err != nil {
			return m, nil, err
		}
		data, err := dockercontext.TLSDataFromFiles(ep.CA, ep.Cert, ep.Key)
		return m, data.ToStoreTLSData(), err
	}
	s := open(sh)
	m, err := s.GetMetadata(name)
	if err != nil {
		return m, nil, err
	}
	data, err := dockercontext.LoadTLSData(s, name, endpoint)
	return m, data.ToStoreTLSData(), err
}

// endpoint reads --docker into the context.
func (a *asked) endpoint(sh *shell.Shell, m *store.Metadata) (*store.EndpointTLSData, error) {
	for _, key := range slices.Sorted(maps.Keys(a.docker)) {
		if !slices.Contains([]string{"from", "host", "ca", "cert", "key", "skip-tls-verify"}, key) {
			return nil, errors.New("unrecognized config key: " + key)
		}
	}
	if from := a.docker["from"]; from != "" {
		source, material, err := copyOf(sh, from)
		m.Endpoints = source.Endpoints
		return material, err
	}
	e := dockercontext.EndpointMetaBase{Host: a.docker["host"]}
	if e.Host == "" {
		return nil, errors.New("no host: --docker host=tcp://NAME:PORT, ssh://… or unix://…")
	}
	if text := a.docker["skip-tls-verify"]; text != "" {
		var err error
		if e.SkipTLSVerify, err = strconv.ParseBool(text); err != nil {
			return nil, fmt.Errorf("skip-tls-verify: parsing %q: invalid syntax", text)
		}
	}
	data, err := dockercontext.TLSDataFromFiles(a.docker["ca"], a.docker["cert"], a.docker["key"])
	if err != nil {
		return nil, err
	}
	if err := usable(data); err != nil {
		return nil, fmt.Errorf("invalid docker endpoint options: %w", err)
	}
	m.Endpoints = map[string]any{endpoint: e}
	return data.ToStoreTLSData(), nil
}

// usable refuses files that are no certificates.
func usable(d *dockercontext.TLSData) error {
	switch {
	case d == nil:
		return nil
	case d.CA != nil && !x509.NewCertPool().AppendCertsFromPEM(d.CA):
		return errors.New("failed to retrieve context tls info: ca.pem seems invalid")
	case (d.Cert == nil) != (d.Key == nil):
		return errors.New("a certificate needs its key: cert= and key= go together")
	case d.Cert == nil:
		return nil
	}
	if _, err := tls.X509KeyPair(d.Cert, d.Key); err != nil {
		return fmt.Errorf("failed to retrieve context tls info: %w", err)
	}
	return nil
}

func newUpdate(sh *shell.Shell) *cobra.Command {
	var a asked
	cmd := &cobra.Command{
		Use: "update [OPTIONS] CONTEXT", Short: "Change a context", Args: shell.ExactArgs(1), ValidArgsFunction: names(sh),
		Long: "Change a context" + endpointHelp,
		RunE: func(_ *cobra.Command, args []string) error {
			name := args[0]
			if name == shell.DefaultContext {
				return errors.New(`"default" is a reserved context name`)
			}
			m, material, err := copyOf(sh, name)
			if err != nil {
				return err
			}
			if a.description != "" {
				describe(&m, a.description)
			}
			if a.docker != nil {
				if material, err = a.endpoint(sh, &m); err != nil {
					return fmt.Errorf("unable to create docker endpoint config: %w", err)
				}
			}
			if err := write(sh, m, material); err != nil {
				return err
			}
			sh.Println(name)
			fmt.Fprintf(sh.Err, "Successfully updated context %q\n", name)
			return nil
		},
	}
	a.add(cmd.Flags())
	return cmd
}
