package localdir

import (
	"context"
	"net"
	"os"
	"strings"

	"github.com/moby/buildkit/session"
	mobyclient "github.com/moby/moby/client"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/wherry-engine/wherry/api/lend"
)

type lender struct {
	api  mobyclient.APIClient
	dirs map[string]string
}

// Lend offers directories, by the names under which the engine knows them, to an
// engine that is reached by a socket of this machine; nil is to others. It may be
// another machine's all the same; then no descriptor gets through.
func Lend(api mobyclient.APIClient, dirs map[string]string) session.Attachable {
	if len(dirs) == 0 || !strings.HasPrefix(api.DaemonHost(), "unix://") {
		return nil
	}
	return &lender{api, dirs}
}

// Register offers the service in a session.
func (l *lender) Register(s *grpc.Server) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: lend.Service,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: lend.Method, Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var ticket wrapperspb.StringValue
			if err := decode(&ticket); err != nil {
				return nil, err
			}
			return &emptypb.Empty{}, l.begin(ctx, ticket.Value)
		}}},
	}, l)
}

// begin connects and goes on behind the answer, until the engine ends the
// connection.
func (l *lender) begin(ctx context.Context, ticket string) error {
	c, err := l.api.DialHijack(ctx, lend.Path, lend.Protocol, map[string][]string{lend.Header: {ticket}})
	if err != nil {
		return err
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return status.Error(codes.Unavailable, "this connection takes no files")
	}
	go func() {
		defer conn.Close()
		_ = lend.Serve(conn, l.open) // the engine sees its end
	}()
	return nil
}

// open opens a file of a directory. No link leads out of that.
func (l *lender) open(dir, name string) (*os.File, error) {
	path, ok := l.dirs[dir]
	if !ok {
		return nil, os.ErrNotExist
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // the engine takes regular files alone
}
