package shell

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/registry"
)

// RegistryKey returns the name under which the login of a server is stored;
// "" is Docker Hub.
func RegistryKey(server string) string {
	switch server {
	case "", "docker.io", "index.docker.io", "registry-1.docker.io", "https://index.docker.io/v1", DockerHub:
		return DockerHub
	}
	server = strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	host, _, _ := strings.Cut(server, "/")
	return host
}

// Credentials returns what is stored for a key; without any, only its address is set.
func (c *Config) Credentials(ctx context.Context, key string) (registry.AuthConfig, error) {
	return c.credentials(ctx, key)
}

// helperFor names the credential helper for a key, "" for the file itself.
func (c *Config) helperFor(key string) string {
	if h := c.CredentialHelpers[key]; h != "" {
		return h
	}
	return c.CredentialsStore
}

// Keep stores a login and tells whether it lies unencrypted in the file.
func (c *Config) Keep(ctx context.Context, key string, a registry.AuthConfig) (plain bool, err error) {
	if h := c.helperFor(key); h != "" {
		user, secret := a.Username, a.Password
		if a.IdentityToken != "" {
			user, secret = "<token>", a.IdentityToken
		}
		b, err := json.Marshal(map[string]string{"ServerURL": key, "Username": user, "Secret": secret})
		if err != nil {
			return false, err
		}
		if err := tellHelper(ctx, h, "store", b); err != nil {
			return false, err
		}
		// docker lists there which servers the helper knows.
		return false, c.edit(func(auths map[string]json.RawMessage) error {
			auths[key] = json.RawMessage("{}")
			return nil
		})
	}
	e := AuthEntry{IdentityToken: a.IdentityToken}
	secret := a.Password
	if a.IdentityToken != "" {
		secret = ""
	}
	e.Auth = base64.StdEncoding.EncodeToString([]byte(a.Username + ":" + secret))
	return true, c.edit(func(auths map[string]json.RawMessage) error {
		b, err := json.Marshal(e)
		auths[key] = b
		return err
	})
}

// Erase removes a login.
func (c *Config) Erase(ctx context.Context, key string) error {
	if h := c.helperFor(key); h != "" {
		if err := tellHelper(ctx, h, "erase", []byte(key)); err != nil {
			return err
		}
	}
	return c.edit(func(auths map[string]json.RawMessage) error {
		delete(auths, key)
		delete(auths, "https://"+key)
		delete(auths, "http://"+key)
		return nil
	})
}

func tellHelper(ctx context.Context, helper, verb string, in []byte) error {
	cmd := exec.CommandContext(ctx, "docker-credential-"+helper, verb)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(string(out), "credentials not found") {
		return fmt.Errorf("error %s credentials - err: %w, out: `%s`", map[string]string{"store": "storing", "erase": "erasing"}[verb], err, strings.TrimSpace(string(out)))
	}
	return nil
}

// File is the path of the configuration file.
func (c *Config) File() string { return filepath.Join(c.dir, "config.json") }

// edit changes the auths in the file.
func (c *Config) edit(change func(map[string]json.RawMessage) error) error {
	return c.rewrite(func(doc map[string]json.RawMessage) error {
		auths := map[string]json.RawMessage{}
		if doc["auths"] != nil {
			if err := json.Unmarshal(doc["auths"], &auths); err != nil {
				return fmt.Errorf("%s: auths: %w", c.File(), err)
			}
		}
		if err := change(auths); err != nil {
			return err
		}
		var err error
		if doc["auths"], err = json.Marshal(auths); err != nil {
			return err
		}
		return json.Unmarshal(doc["auths"], &c.AuthConfigs)
	})
}

// KeepContext makes a context the current one.
func (c *Config) KeepContext(name string) error {
	if name == DefaultContext {
		name = ""
	}
	err := c.rewrite(func(doc map[string]json.RawMessage) (err error) {
		if name == "" {
			delete(doc, "currentContext")
			return nil
		}
		doc["currentContext"], err = json.Marshal(name)
		return err
	})
	if err == nil {
		c.CurrentContext = name
	}
	return err
}

// rewrite changes the file and keeps everything else as it is. The file is
// replaced as a whole and only its owner can read it.
func (c *Config) rewrite(change func(doc map[string]json.RawMessage) error) error {
	path := c.File()
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	doc := map[string]json.RawMessage{}
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(b, &doc); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := change(doc); err != nil {
		return err
	}
	if b, err = json.MarshalIndent(doc, "", "\t"); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "config.json-") // of mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
