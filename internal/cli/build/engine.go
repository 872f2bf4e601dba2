package build

import (
	"context"
	"fmt"
	"net"

	"github.com/containerd/log"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/identity"
	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto" // names of files need not be UTF-8, and nothing is reflected upon
	mobyclient "github.com/moby/moby/client"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// engine is the BuildKit inside the engine, spoken to through connections that
// the engine's API hands over.
type engine struct {
	kit *client.Client
	api mobyclient.APIClient
}

// connect begins to connect, and does not wait for it: the first request does.
// The connection ends with the program.
func connect(ctx context.Context, sh *shell.Shell) (*engine, error) {
	if !sh.Global.Debug {
		// The libraries' warnings are about their own affairs.
		_ = log.SetLevel("error") //nolint:forbidigo // not to log by it: to have libraries be quiet; the level is a known one
	}
	api, err := sh.API()
	if err != nil {
		return nil, err
	}
	kit, err := client.New(ctx, "",
		client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return api.DialHijack(ctx, "/grpc", "h2c", nil)
		}),
		client.WithSessionDialer(func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
			return api.DialHijack(ctx, "/session", proto, meta)
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to the builder: %w", err)
	}
	return &engine{kit: kit, api: api}, nil
}

// newRef is an id of a build in the history.
func newRef() string { return identity.NewID() }
