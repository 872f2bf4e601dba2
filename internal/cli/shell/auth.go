package shell

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
)

// DockerHub is the name under which docker's CLI stores Docker Hub logins.
const DockerHub = "https://index.docker.io/v1/"

// RegistryAuth returns the X-Registry-Auth value for pulling image: what
// `login` stored in the file or in a credential helper, else anonymous.
func (s *Shell) RegistryAuth(ctx context.Context, image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", err
	}
	key := reference.Domain(named)
	if key == "docker.io" {
		key = DockerHub
	}
	auth, err := s.Config().credentials(ctx, key)
	if errors.Is(err, errHelper) {
		// As docker does: what anybody may pull needs no helper.
		fmt.Fprintf(s.Err, "WARNING: %v\n", err)
	} else if err != nil {
		return "", err
	}
	b, err := json.Marshal(auth) //nolint:gosec // the header that carries credentials
	if err != nil {
		return "", err
	}
	return base64.URLEncoding.EncodeToString(b), nil
}

func (c *Config) credentials(ctx context.Context, key string) (registry.AuthConfig, error) {
	helper := c.CredentialHelpers[key]
	if helper == "" {
		helper = c.CredentialsStore
	}
	if helper != "" {
		return askHelper(ctx, helper, key)
	}
	e, ok := c.AuthConfigs[key]
	if !ok && key != DockerHub {
		// Older clients wrote addresses.
		for _, stored := range slices.Sorted(maps.Keys(c.AuthConfigs)) {
			if stored != DockerHub && RegistryKey(stored) == key {
				e = c.AuthConfigs[stored]
				break
			}
		}
	}
	out := registry.AuthConfig{ServerAddress: key, Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	if e.Auth != "" {
		b, err := base64.StdEncoding.DecodeString(e.Auth)
		if err != nil {
			return out, fmt.Errorf("auth of %s in config.json: %w", key, err)
		}
		user, pass, ok := strings.Cut(string(b), ":")
		if !ok {
			return out, fmt.Errorf("auth of %s in config.json: no user name in it", key)
		}
		out.Username, out.Password = user, strings.Trim(pass, "\x00")
	}
	return out, nil
}

// errHelper is the failure of a credential helper.
var errHelper = errors.New("error getting credentials")

// askHelper speaks the docker-credential-helper protocol: the server's name
// on stdin, JSON on stdout.
func askHelper(ctx context.Context, helper, key string) (registry.AuthConfig, error) {
	out := registry.AuthConfig{ServerAddress: key}
	cmd := exec.CommandContext(ctx, "docker-credential-"+helper, "get")
	cmd.Stdin = strings.NewReader(key)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	if err := cmd.Run(); err != nil {
		msg := strings.TrimSpace(stdout.String())
		if strings.Contains(msg, "credentials not found") {
			return out, nil
		}
		return out, fmt.Errorf("%w - err: %w, out: `%s`", errHelper, err, msg)
	}
	var r struct{ Username, Secret string }
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		return out, fmt.Errorf("credential helper %s: %w", helper, err)
	}
	if r.Username == "<token>" {
		out.IdentityToken = r.Secret
	} else {
		out.Username, out.Password = r.Username, r.Secret
	}
	return out, nil
}
