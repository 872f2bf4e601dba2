package login

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"
)

// Credentials are what one server may get; the zero value is nobody's.
type Credentials struct {
	User, Password string
	Refresh        string // an identity token, to get others with
	Bearer         string // a token to be sent as it is
}

// None tells whether there are none.
func (c Credentials) None() bool { return c == Credentials{} }

// Decode reads an X-Registry-Auth header; "" is anonymous.
func Decode(header string) (Credentials, error) {
	if header == "" {
		return Credentials{}, nil
	}
	b, err := base64.URLEncoding.DecodeString(header)
	if err != nil {
		if b, err = base64.RawURLEncoding.DecodeString(strings.TrimRight(header, "=")); err != nil {
			if b, err = base64.StdEncoding.DecodeString(header); err != nil {
				return Credentials{}, invalid("invalid X-Registry-Auth header: %v", err)
			}
		}
	}
	var a registry.AuthConfig
	if err := json.Unmarshal(b, &a); err != nil {
		return Credentials{}, invalid("invalid X-Registry-Auth header: %v", err)
	}
	return FromConfig(a)
}

// FromConfig takes them from what a client sends to log in.
func FromConfig(a registry.AuthConfig) (Credentials, error) {
	c := Credentials{User: a.Username, Password: a.Password, Refresh: a.IdentityToken, Bearer: a.RegistryToken}
	if c.User == "" && c.Password == "" && a.Auth != "" {
		b, err := base64.StdEncoding.DecodeString(a.Auth)
		if err != nil {
			return c, invalid("invalid auth configuration: %v", err)
		}
		c.User, c.Password, _ = strings.Cut(string(b), ":")
	}
	return c, nil
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
