package config

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// hosts is registry-hosts, which only the file has.
func hosts(at *map[string]RegistryHost) value { return registryHosts{at} }

type registryHosts struct{ at *map[string]RegistryHost }

func (r registryHosts) String() string {
	b, err := json.Marshal(*r.at)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (r registryHosts) Set(string) error {
	return fmt.Errorf("registry-hosts is a key of the file only")
}
func (r registryHosts) Type() string { return "registry-hosts" }
func (r registryHosts) take(v value) { *r.at = *v.(registryHosts).at }

func (r registryHosts) decode(raw json.RawMessage) error {
	m := map[string]RegistryHost{}
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return err
	}
	for host, h := range m {
		if host == "" || strings.Contains(host, "/") || strings.Contains(strings.TrimPrefix(host, "*"), "*") {
			return fmt.Errorf("invalid registry host %q: it is host[:port], *.domain or *", host)
		}
		for _, one := range h.Mirrors {
			if err := one.check(); err != nil {
				return fmt.Errorf("registry host %s: %w", host, err)
			}
		}
	}
	*r.at = m
	return nil
}

func (m RegistryMirror) check() error {
	u, err := url.Parse(m.URL)
	switch {
	case err != nil:
		return err
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("invalid mirror %q: it is http[s]://host[:port][/prefix]", m.URL)
	case u.User != nil:
		return fmt.Errorf("invalid mirror %q: credentials go into username and password", u.Redacted())
	case (m.Cert == "") != (m.Key == ""):
		return fmt.Errorf("mirror %s: cert and key go together", m.URL)
	case m.Password != "" && m.PasswordFile != "":
		return fmt.Errorf("mirror %s: password and password-file exclude each other", m.URL)
	}
	for _, r := range m.Rewrite {
		if _, err := regexp.Compile(r.Match); err != nil {
			return fmt.Errorf("mirror %s: %w", m.URL, err)
		}
	}
	return nil
}
