package build

import (
	"context"
	"net"
	"strings"
	"sync"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/moby/api/types/registry"
	"google.golang.org/grpc"

	"github.com/wherry-engine/wherry/internal/build/conn"
	"github.com/wherry-engine/wherry/internal/build/request"
)

// ownSession is a session whose client is the engine, for requests that bring
// files and credentials themselves.
type ownSession struct {
	*session.Session
	cancel func()
	ended  sync.WaitGroup
}

func (e *engine) openSession(ctx context.Context, r *request.Build) (*ownSession, error) {
	s, err := session.NewSession(ctx, "")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	own := &ownSession{Session: s, cancel: func() { cancel(nil) }}
	s.Allow(&credentials{known: r.Auth})
	// Both ends are here; what fails shows up at whoever asks the session.
	own.ended.Go(func() {
		s.Run(ctx, func(ctx context.Context, _ string, meta map[string][]string) (net.Conn, error) { //nolint:errcheck // see above
			ours, theirs, err := conn.Pair()
			if err != nil {
				return nil, err
			}
			own.ended.Go(func() { e.sessions.HandleConn(ctx, theirs, meta) }) //nolint:errcheck // see above
			return ours, nil
		})
	})
	return own, nil
}

func (s *ownSession) close() {
	s.cancel()
	s.Close() //nolint:errcheck // it never fails
	s.ended.Wait()
}

// credentials answers the builder's questions from X-Registry-Config.
type credentials struct {
	auth.UnimplementedAuthServer
	known map[string]registry.AuthConfig
}

// Register offers the service in a session.
func (c *credentials) Register(s *grpc.Server) { auth.RegisterAuthServer(s, c) }

// Credentials are those for one registry host; none is an answer too.
func (c *credentials) Credentials(_ context.Context, r *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	host := r.Host
	for key, a := range c.known {
		if registryHost(key) != host && (host != "registry-1.docker.io" || !isHub(registryHost(key))) {
			continue
		}
		if a.IdentityToken != "" {
			return &auth.CredentialsResponse{Secret: a.IdentityToken}, nil
		}
		return &auth.CredentialsResponse{Username: a.Username, Secret: a.Password}, nil
	}
	return &auth.CredentialsResponse{}, nil
}

func isHub(host string) bool { return host == "docker.io" || host == "index.docker.io" }

// registryHost is the host of a key in a client's configuration, which may be
// an address.
func registryHost(key string) string {
	if _, rest, ok := strings.Cut(key, "://"); ok {
		key = rest
	}
	host, _, _ := strings.Cut(key, "/")
	return host
}
