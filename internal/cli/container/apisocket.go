package container

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"strings"

	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/wherry-engine/wherry/internal/cli/runopts"
	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// Where docker puts what --use-api-socket gives.
const (
	socketInside = "/var/run/docker.sock"
	loginsInside = "/run/secrets/docker/config.json"
)

// giveSocket lets a container that is to be made have the engine's socket. It
// returns the file of logins that it is to have, too; nil for none, or when the
// user has said where its settings are.
func giveSocket(ctx context.Context, sh *shell.Shell, api client.APIClient, spec *runopts.Container) ([]byte, error) {
	socket, ok := strings.CutPrefix(api.DaemonHost(), "unix://")
	if !ok {
		return nil, fmt.Errorf("flag --use-api-socket can only be used with unix sockets: docker endpoint %s incompatible", api.DaemonHost())
	}
	spec.Host.Mounts = append(spec.Host.Mounts, mount.Mount{Type: mount.TypeBind, Source: socket, Target: socketInside, BindOptions: &mount.BindOptions{}})
	for _, e := range spec.Config.Env {
		if strings.HasPrefix(e, "DOCKER_CONFIG=") {
			return nil, nil
		}
	}
	logins, err := logins(ctx, sh.Config())
	if err != nil {
		return nil, fmt.Errorf("resolving credentials failed: %w", err)
	}
	if len(logins) == 0 {
		return nil, nil
	}
	spec.Config.Env = append(spec.Config.Env, "DOCKER_CONFIG="+path.Dir(loginsInside))
	return json.MarshalIndent(map[string]any{"auths": logins}, "", "\t")
}

// logins are those of the file and of the helpers that it names.
func logins(ctx context.Context, c *shell.Config) (map[string]shell.AuthEntry, error) {
	all := map[string]shell.AuthEntry{}
	keys := maps.Clone(c.AuthConfigs)
	if keys == nil {
		keys = map[string]shell.AuthEntry{}
	}
	for k := range c.CredentialHelpers {
		keys[k] = shell.AuthEntry{}
	}
	for k := range keys {
		a, err := c.Credentials(ctx, k)
		if err != nil {
			return nil, err
		}
		e := shell.AuthEntry{IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
		if a.Username != "" || a.Password != "" {
			e.Auth = base64.StdEncoding.EncodeToString([]byte(a.Username + ":" + a.Password))
		}
		if e != (shell.AuthEntry{}) {
			all[k] = e
		}
	}
	return all, nil
}

// putLogins writes the file of logins into a container that was not started yet.
func putLogins(ctx context.Context, api client.APIClient, id string, file []byte) error {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err := w.WriteHeader(&tar.Header{Name: loginsInside[1:], Mode: 0o600, Size: int64(len(file))})
	if err == nil {
		_, err = w.Write(file)
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		_, err = api.CopyToContainer(ctx, id, client.CopyToContainerOptions{DestinationPath: "/", Content: &archive})
	}
	if err != nil {
		return fmt.Errorf("injecting docker config.json into container failed: %w", err)
	}
	return nil
}
