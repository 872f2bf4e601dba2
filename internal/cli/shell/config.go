package shell

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Config is the part of docker's config.json that this client honours.
type Config struct {
	AuthConfigs       map[string]AuthEntry  `json:"auths"`
	CredentialsStore  string                `json:"credsStore"`
	CredentialHelpers map[string]string     `json:"credHelpers"`
	HTTPHeaders       map[string]string     `json:"HttpHeaders"`
	PsFormat          string                `json:"psFormat"`
	ImagesFormat      string                `json:"imagesFormat"`
	DetachKeys        string                `json:"detachKeys"`
	CurrentContext    string                `json:"currentContext"`
	Proxies           map[string]ProxyEntry `json:"proxies"`
	PluginDirs        []string              `json:"cliPluginsExtraDirs"`

	dir string
}

// AuthEntry is what login leaves in the file.
type AuthEntry struct {
	Auth          string `json:"auth,omitempty"`
	Username      string `json:"username,omitempty"` // read, never written
	Password      string `json:"password,omitempty"` // read, never written
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

// ProxyEntry is a proxy setting handed to new containers.
type ProxyEntry struct {
	HTTPProxy  string `json:"httpProxy"`
	HTTPSProxy string `json:"httpsProxy"`
	NoProxy    string `json:"noProxy"`
	FTPProxy   string `json:"ftpProxy"`
	AllProxy   string `json:"allProxy"`
}

// DefaultConfigDir is where docker's CLI keeps its files for this user.
func DefaultConfigDir() string {
	if d := os.Getenv("DOCKER_CONFIG"); d != "" {
		return d
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/"
	}
	return filepath.Join(home, ".docker")
}

func (s *Shell) configDir() string {
	if s.Global.ConfigDir != "" {
		return s.Global.ConfigDir
	}
	return DefaultConfigDir()
}

// PluginDirs are where docker's client looks for its plugins, first the user's.
func (s *Shell) PluginDirs() []string {
	dirs := append([]string{filepath.Join(s.configDir(), "cli-plugins")}, s.Config().PluginDirs...)
	if runtime.GOOS == "windows" {
		return append(dirs, filepath.Join(os.Getenv("ProgramData"), "Docker", "cli-plugins"), filepath.Join(os.Getenv("ProgramFiles"), "Docker", "cli-plugins"))
	}
	return append(dirs, "/usr/local/lib/docker/cli-plugins", "/usr/local/libexec/docker/cli-plugins", "/usr/lib/docker/cli-plugins", "/usr/libexec/docker/cli-plugins")
}

// loadConfig always returns a usable Config.
func loadConfig(dir string) (*Config, error) {
	c := &Config{dir: dir}
	path := filepath.Join(dir, "config.json")
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(b, c); err != nil {
		return &Config{dir: dir}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// ProxyEnv returns the environment that config.json asks to give to new
// containers of the engine at host. What the user set in set wins.
func (c *Config) ProxyEnv(host string, set []string) []string {
	p, ok := c.Proxies[host]
	if !ok {
		p = c.Proxies["default"]
	}
	have := map[string]bool{}
	for _, e := range set {
		k, _, _ := strings.Cut(e, "=")
		have[k] = true
	}
	var env []string
	for _, kv := range [][2]string{
		{"HTTP_PROXY", p.HTTPProxy},
		{"HTTPS_PROXY", p.HTTPSProxy},
		{"NO_PROXY", p.NoProxy},
		{"FTP_PROXY", p.FTPProxy},
		{"ALL_PROXY", p.AllProxy},
	} {
		if kv[1] == "" {
			continue
		}
		for _, k := range []string{kv[0], strings.ToLower(kv[0])} {
			if !have[k] {
				env = append(env, k+"="+kv[1])
			}
		}
	}
	return env
}
