package shell

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"os"
	"runtime"
	"strings"

	"github.com/docker/go-connections/tlsconfig"
	"github.com/moby/moby/client"
)

// connect makes the API client. The version is fixed, so that no request is
// spent on negotiation: an engine that finds it too new says so, and the
// program then starts over with what the engine offers.
func (s *Shell) connect(ep *Endpoint) (client.APIClient, error) {
	host, ssh := ep.Host, strings.HasPrefix(ep.Host, "ssh://")
	if ssh {
		u, err := url.Parse(ep.Host)
		if err != nil {
			return nil, err
		}
		host = "http://" + u.Hostname() // what messages say; nobody looks it up
	}
	options := []client.Opt{
		client.WithHost(host),
		client.WithUserAgent("Wherry-Client/" + s.Build.Version + " (" + runtime.GOOS + ")"),
	}
	if h := s.Config().HTTPHeaders; len(h) > 0 {
		options = append(options, client.WithHTTPHeaders(h))
	}
	switch {
	case s.APIVersion != "":
		options = append(options, client.WithAPIVersion(s.APIVersion))
	case os.Getenv(client.EnvOverrideAPIVersion) != "":
		options = append(options, client.WithAPIVersionFromEnv())
	default:
		options = append(options, client.WithAPIVersion(client.MaxAPIVersion))
	}
	if ep.TLS {
		cfg, err := tlsconfig.Client(tlsconfig.Options{
			CAFile: ep.CA, CertFile: ep.Cert, KeyFile: ep.Key,
			InsecureSkipVerify: !ep.Verify, ExclusiveRootPools: true,
			MinVersion: tls.VersionTLS12,
		})
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(ep.Host, "unix://") {
			// TLS is done in the dialer, because hijacked streams use the
			// same dialer and would otherwise lose the verify setting.
			options = append(options, client.WithScheme("http"), client.WithDialContext(dialTLS(cfg)))
		}
	} else if ssh {
		dial, err := sshDialer(ep.Host)
		if err != nil {
			return nil, err
		}
		options = append(options, client.WithDialContext(dial))
	} else if path, ok := strings.CutPrefix(ep.Host, "unix://"); ok {
		options = append(options, client.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "unix", path)
			if errors.Is(err, os.ErrNotExist) {
				return nil, &net.OpError{Op: "dial", Net: "unix", Err: errNoSocket}
			}
			return c, err
		}))
	}
	return client.New(options...)
}

// errNoSocket replaces ENOENT of a missing socket: the API client words a
// refused connection as docker users know it, and a missing socket otherwise.
var errNoSocket = errors.New("connect: connection refused (no such socket)")

// TooNew returns the newest API version that the engine offers if err is its
// refusal of a client that is too new, else "".
func TooNew(err error) string {
	if err == nil {
		return ""
	}
	_, rest, ok := strings.Cut(err.Error(), "is too new. Maximum supported API version is ")
	if !ok {
		return ""
	}
	v, _, _ := strings.Cut(rest, "\n")
	return strings.TrimRight(strings.TrimSpace(v), ".")
}

// Negotiate agrees on a version before a request whose body cannot be sent
// twice.
func (s *Shell) Negotiate(ctx context.Context) error {
	if s.APIVersion != "" || os.Getenv(client.EnvOverrideAPIVersion) != "" {
		return nil
	}
	api, err := s.API()
	if err != nil {
		return err
	}
	_, err = api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true, ForceNegotiate: true})
	return err
}
