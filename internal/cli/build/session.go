package build

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/types"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/moby/buildkit/util/gitutil"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// attach offers the engine, for the time of the build, what it may ask of the
// user: logins of registries, secrets, ssh agents.
func (o *options) attach(sh *shell.Shell, opt *client.SolveOpt) error {
	cfg := sh.Config()
	dockerconfig.SetDir(filepath.Dir(cfg.File())) // where the library keeps its seed for tokens
	opt.Session = append(opt.Session, authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: func(ctx context.Context, host string, _ []string, _ authprovider.ExpireCachedAuthCheck) (types.AuthConfig, error) {
			a, err := cfg.Credentials(ctx, shell.RegistryKey(host))
			return types.AuthConfig{
				Username: a.Username, Password: a.Password, ServerAddress: a.ServerAddress,
				IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
			}, err
		},
	}))
	var sources []secretsprovider.Source
	for _, text := range o.secrets {
		s, err := parseSecret(text)
		if err != nil {
			return err
		}
		sources = append(sources, s)
	}
	if len(sources) > 0 {
		store, err := secretsprovider.NewStore(sources)
		if err != nil {
			return fmt.Errorf("could not parse secrets: %w", err)
		}
		opt.Session = append(opt.Session, secretsprovider.NewSecretProvider(store))
	}
	agents := o.ssh
	if u, err := gitutil.ParseURL(o.context); err == nil && u.Scheme == gitutil.SSHProtocol && len(agents) == 0 {
		agents = []string{"default"}
	}
	var confs []sshprovider.AgentConfig
	for _, text := range agents {
		id, paths, ok := strings.Cut(text, "=")
		conf := sshprovider.AgentConfig{ID: id}
		if ok {
			conf.Paths = strings.Split(paths, ",")
		}
		confs = append(confs, conf)
	}
	p, err := sshprovider.NewSSHAgentProvider(confs)
	if err != nil {
		return err
	}
	opt.Session = append(opt.Session, p) // without any, it says which one a step asks for
	return nil
}

// parseSecret parses id=...[,src=path][,env=variable][,type=file|env].
func parseSecret(text string) (secretsprovider.Source, error) {
	var s secretsprovider.Source
	fields, err := splitCSV(text)
	if err != nil {
		return s, fmt.Errorf("failed to parse csv secret: %w", err)
	}
	kind := ""
	for _, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return s, fmt.Errorf("invalid field '%s' must be a key=value pair", f)
		}
		switch strings.ToLower(k) {
		case "type":
			if v != "file" && v != "env" {
				return s, fmt.Errorf("unsupported secret type %q", v)
			}
			kind = v
		case "id":
			s.ID = v
		case "source", "src":
			s.FilePath = v
		case "env":
			s.Env = v
		default:
			return s, fmt.Errorf("unexpected key '%s' in '%s'", k, f)
		}
	}
	if s.ID == "" {
		return s, errors.New("secret missing ID")
	}
	if kind == "env" && s.Env == "" {
		s.Env, s.FilePath = s.FilePath, ""
	}
	return s, nil
}
