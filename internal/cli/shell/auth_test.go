package shell

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/moby/api/types/registry"
)

// TestCredentials: every form in which docker's CLI, or a person, stores a login.
func TestCredentials(t *testing.T) {
	bin := t.TempDir()
	for name, text := range map[string]string{
		"works":  `read -r server; [ "$1 $server" = "get host:1" ] && echo '{"Username":"me","Secret":"secret"}'`,
		"token":  `echo '{"Username":"<token>","Secret":"refresh"}'`,
		"empty":  `echo "credentials not found in native keychain"; exit 1`,
		"locked": `echo "it is locked"; exit 1`,
	} {
		if err := os.WriteFile(filepath.Join(bin, "docker-credential-"+name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	me := registry.AuthConfig{ServerAddress: "host:1", Username: "me", Password: "secret"}
	none := registry.AuthConfig{ServerAddress: "host:1"}
	entry := func(key string, e AuthEntry) Config { return Config{AuthConfigs: map[string]AuthEntry{key: e}} }
	packed := AuthEntry{Auth: "bWU6c2VjcmV0"}
	for name, c := range map[string]struct {
		config Config
		want   registry.AuthConfig
		failed bool // the helper
	}{
		"nothing":               {Config{}, none, false},
		"auth":                  {entry("host:1", packed), me, false},
		"plain":                 {entry("host:1", AuthEntry{Username: "me", Password: "secret"}), me, false},
		"address":               {entry("https://host:1", packed), me, false},
		"address with a path":   {entry("http://host:1/v1/", packed), me, false},
		"another port":          {entry("host:2", packed), none, false},
		"another host":          {entry("https://host:1.example/", packed), none, false},
		"Docker Hub's":          {entry(DockerHub, packed), none, false},
		"store":                 {Config{CredentialsStore: "works"}, me, false},
		"helper":                {Config{CredentialsStore: "locked", CredentialHelpers: map[string]string{"host:1": "works"}}, me, false},
		"another host's helper": {Config{CredentialHelpers: map[string]string{"host:2": "works"}}, none, false},
		"token":                 {Config{CredentialsStore: "token"}, registry.AuthConfig{ServerAddress: "host:1", IdentityToken: "refresh"}, false},
		"empty store":           {Config{CredentialsStore: "empty"}, none, false},
		"locked store":          {Config{CredentialsStore: "locked"}, none, true},
		"missing helper":        {Config{CredentialsStore: "missing"}, none, true},
	} {
		got, err := c.config.Credentials(context.Background(), "host:1")
		if errors.Is(err, errHelper) != c.failed || !c.failed && err != nil || got != c.want {
			t.Errorf("%s: %+v %v", name, got, err)
		}
	}
}
