package registry

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Settings with which a server would start and be of no use are refused.
func TestSettingsRefused(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const good = "me:$2a$04$86reYDAmk8FD7GB86SKHmOYRkXYWaO.1LESOOGkC4Kb07qYEOq3da"
	for want, o := range map[string]Options{
		"":                                   {HTPasswd: write("good", "# people\n\n"+good+"\n")},
		"line 2: the password of you is not": {HTPasswd: write("plain", good+"\nyou:secret\n")},
		"line 1 is not USER:PASSWORD":        {HTPasswd: write("torn", "you")},
		"no users":                           {HTPasswd: write("empty", "\n")},
		"no such file":                       {HTPasswd: filepath.Join(dir, "absent")},
		"--proxy-user is told to":            {ProxyUser: "me"},
		"line 1: the password of they":       {File: write("users.yml", "version: 0.1\nauth: {htpasswd: {realm: r, path: "+write("they", "they:secret\n")+"}}")},
		"bad.yml: ":                          {File: write("bad.yml", "version: 9")},
	} {
		o.Data = dir
		_, err := settings(o)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

// The environment names a file of users, as it does for the well-known image.
func TestUsersOfEnvironment(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "users")
	t.Setenv("REGISTRY_AUTH", "htpasswd")
	t.Setenv("REGISTRY_AUTH_HTPASSWD_REALM", "r")
	t.Setenv("REGISTRY_AUTH_HTPASSWD_PATH", file)
	if _, err := settings(Options{Data: dir}); err != nil {
		t.Error("a file that will be made:", err)
	}
	if err := os.WriteFile(file, []byte("me:secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := settings(Options{Data: dir}); err == nil || !strings.Contains(err.Error(), "the password of me is not a bcrypt hash") {
		t.Error(err)
	}
}

// TestProxyUser: the user is told to the registry that is named, wherever that is.
func TestProxyUser(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(file, []byte("version: 0.1\nproxy:\n  remoteurl: http://up.example\n  username: other\n  password: old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{"flag": {Proxy: "http://up.example"}, "file": {File: file}, "environment": {}} {
		t.Run(name, func(t *testing.T) {
			if name == "environment" {
				t.Setenv("REGISTRY_PROXY_REMOTEURL", "http://up.example")
			}
			o.Data, o.ProxyUser, o.ProxyPassword = t.TempDir(), "me", "secret"
			c, err := settings(o)
			if err != nil {
				t.Fatal(err)
			}
			if p := c.Proxy; p.RemoteURL != "http://up.example" || p.Username != "me" || p.Password != "secret" {
				t.Errorf("%s %s %s", p.RemoteURL, p.Username, p.Password)
			}
		})
	}
}

func TestCollectNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "absent")
	if err := Collect(t.Context(), Options{Data: dir}, false, false, &bytes.Buffer{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
}
