// Package registry owns wherry-registry, the registry server: its settings, how
// it is served, cleaned, and shipped as an image. The protocol and the storage
// are distribution's; nothing of the engine is in here.
package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"go.yaml.in/yaml/v3"
)

// Options are the flags of `serve`.
type Options struct {
	File            string // a configuration file of distribution's form; "" for none
	Addr            string // host:port; ":0" takes a free port
	Data            string // directory
	TLSCert, TLSKey string
	HTPasswd        string // file of user:bcrypt lines; "" lets everybody in
	Proxy           string // address of the registry that is cached
	ProxyUser       string
	ProxyPassword   string
	DebugAddr       string // where health and metrics are answered; "" nowhere
	TokenRealm      string // address of the server that gives out tokens; "" for none
	TokenService    string // what this registry is called there
	TokenIssuer     string // who signs them
	TokenCert       string // file of certificates whose keys sign them
	GC              string // "on", "off" or "" for on where this process has the storage for itself
	GCGrace         time.Duration
	Delete          bool
	Verbose         bool
}

// settings makes distribution's configuration. What a file says comes first,
// flags that are set override it, and so does the environment (REGISTRY_...),
// as the well-known image has it.
func settings(o Options) (*configuration.Configuration, error) {
	doc := map[string]any{"version": "0.1"}
	if o.File != "" {
		b, err := os.ReadFile(o.File)
		if err != nil {
			return nil, err
		}
		if err := yaml.Unmarshal(b, &doc); err != nil {
			return nil, fmt.Errorf("%s: %w", o.File, err)
		}
	}
	put := func(value any, path ...string) {
		at := doc
		for _, key := range path[:len(path)-1] {
			next, ok := at[key].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[key] = next
			}
			at = next
		}
		at[path[len(path)-1]] = value
	}
	storage, _ := doc["storage"].(map[string]any)
	given := false
	for name := range storage {
		switch name {
		case "cache", "maintenance", "delete", "redirect", "tag":
		default:
			given = true
		}
	}
	if o.Data != "" || !given {
		if o.Data == "" {
			o.Data = "/var/lib/registry"
		}
		put(o.Data, "storage", "filesystem", "rootdirectory")
	}
	if cache, _ := storage["cache"].(map[string]any); cache != nil && (cache["blobdescriptor"] == "inmemory" || cache["layerinfo"] == "inmemory") {
		// The well-known file has it, but a blob that was deleted must be known to be.
		delete(storage, "cache")
	}
	if o.Delete {
		put(true, "storage", "delete", "enabled")
	}
	web, _ := doc["http"].(map[string]any)
	if o.Addr != "" || web["addr"] == nil {
		if o.Addr == "" {
			o.Addr = ":5000"
		}
		put(o.Addr, "http", "addr")
	}
	if (o.TLSCert == "") != (o.TLSKey == "") {
		return nil, errors.New("--tls-cert and --tls-key go together")
	}
	if o.TLSCert != "" {
		put(o.TLSCert, "http", "tls", "certificate")
		put(o.TLSKey, "http", "tls", "key")
	}
	if o.DebugAddr != "" {
		put(o.DebugAddr, "http", "debug", "addr")
		put(true, "http", "debug", "prometheus", "enabled")
	}
	if o.HTPasswd != "" {
		if _, err := os.Stat(o.HTPasswd); err != nil {
			return nil, err // distribution would make the file, with a user of its own
		}
		put(o.HTPasswd, "auth", "htpasswd", "path")
		put("wherry-registry", "auth", "htpasswd", "realm")
	}
	if o.TokenRealm != "" || o.TokenService != "" || o.TokenIssuer != "" || o.TokenCert != "" {
		if o.TokenRealm == "" || o.TokenService == "" || o.TokenIssuer == "" || o.TokenCert == "" {
			return nil, errors.New("--token-realm, --token-service, --token-issuer and --token-cert go together")
		}
		if o.HTPasswd != "" {
			return nil, errors.New("--htpasswd and the --token flags cannot be used together")
		}
		if _, err := os.Stat(o.TokenCert); err != nil {
			return nil, err
		}
		put(o.TokenRealm, "auth", "token", "realm")
		put(o.TokenService, "auth", "token", "service")
		put(o.TokenIssuer, "auth", "token", "issuer")
		put(o.TokenCert, "auth", "token", "rootcertbundle")
	}
	if o.Proxy != "" {
		put(o.Proxy, "proxy", "remoteurl")
	}
	if o.ProxyUser != "" {
		put(o.ProxyUser, "proxy", "username")
	}
	if o.ProxyPassword != "" {
		put(o.ProxyPassword, "proxy", "password")
	}
	if o.Verbose {
		put("debug", "log", "level")
	} else if doc["log"] == nil {
		put("warn", "log", "level")
		put(true, "log", "accesslog", "disabled")
	}
	b, err := yaml.Marshal(doc)
	if err != nil {
		return nil, err
	}
	c, err := configuration.Parse(bytes.NewReader(b))
	if err != nil {
		if o.File != "" {
			return nil, fmt.Errorf("%s: %w", o.File, err)
		}
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if o.ProxyUser != "" && c.Proxy.RemoteURL == "" {
		return nil, errors.New("--proxy-user is told to the registry that --proxy, or proxy.remoteurl in the settings, names")
	}
	if path, _ := c.Auth["htpasswd"]["path"].(string); path != "" {
		// The well-known image makes a file that is not there, which a file of
		// settings or the environment names, with a user of its own: so be it.
		if err := checkUsers(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if err := checkCollection(o, c); err != nil {
		return nil, err
	}
	if c.HTTP.DrainTimeout == 0 {
		c.HTTP.DrainTimeout = 10 * time.Second
	}
	if c.Storage.Type() == "filesystem" && strings.TrimSpace(fmt.Sprint(c.Storage.Parameters()["rootdirectory"])) == "" {
		return nil, errors.New("no directory for the data")
	}
	return c, nil
}
