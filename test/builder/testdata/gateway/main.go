// gateway is a frontend that runs containers while it reads its file: what two
// processes of one of them print, and how a third ends, is what it builds.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/gateway/grpcclient"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/appcontext"
)

func main() {
	if err := grpcclient.RunFromEnvironment(appcontext.Context(), build); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type writer struct{ io.Writer }

func (writer) Close() error { return nil }

func build(ctx context.Context, c client.Client) (*client.Result, error) {
	root, err := solve(ctx, c, llb.Image(c.BuildOpts().Opts["build-arg:base"]))
	if err != nil {
		return nil, err
	}
	// Of one process that stays, and of one beside it that reads what it wrote.
	container, err := c.NewContainer(ctx, client.NewContainerRequest{Mounts: []client.Mount{{Dest: "/", Ref: root.Ref, MountType: pb.MountType_BIND}}})
	if err != nil {
		return nil, fmt.Errorf("make a container: %w", err)
	}
	defer container.Release(ctx)
	hold, stdin := io.Pipe()
	main, err := container.Start(ctx, client.StartRequest{Args: []string{"sh", "-c", "echo main > /f; mkfifo /p; read line; echo $line > /p; cat"}, Stdin: io.NopCloser(hold), Cwd: "/"})
	if err != nil {
		return nil, fmt.Errorf("start its process: %w", err)
	}
	var said bytes.Buffer
	beside, err := container.Start(ctx, client.StartRequest{
		Args: []string{"sh", "-c", "until [ -p /p ]; do sleep 0.01; done; cat /f; echo $who $(pwd) $(id -u); cat /p"}, Env: []string{"who=beside", "PATH=/bin"}, User: "1", Cwd: "/tmp",
		Stdout: writer{&said}, Stderr: writer{&said},
	})
	if err != nil {
		return nil, fmt.Errorf("start another in it: %w", err)
	}
	if _, err := io.WriteString(stdin, "through a pipe\n"); err != nil {
		return nil, err
	}
	err = beside.Wait()
	stdin.Close() // ends the first, and with it all others
	if err := errors.Join(err, main.Wait()); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, said.String())
	}
	failing, err := c.NewContainer(ctx, client.NewContainerRequest{Mounts: []client.Mount{{Dest: "/", Ref: root.Ref, MountType: pb.MountType_BIND}}})
	if err != nil {
		return nil, err
	}
	defer failing.Release(ctx)
	p, err := failing.Start(ctx, client.StartRequest{Args: []string{"sh", "-c", "exit 7"}, Cwd: "/"})
	if err != nil {
		return nil, err
	}
	code := (*gatewaypb.ExitError)(nil)
	if err := p.Wait(); !errors.As(err, &code) || code.ExitCode != 7 {
		return nil, fmt.Errorf("exit 7 is told as %v", err)
	}
	return solve(ctx, c, llb.Scratch().File(llb.Mkfile("/said", 0o644, []byte(strings.TrimSpace(said.String())+"\n"))))
}

func solve(ctx context.Context, c client.Client, s llb.State) (*client.Result, error) {
	def, err := s.Marshal(ctx, llb.LinuxAmd64)
	if err != nil {
		return nil, err
	}
	return c.Solve(ctx, client.SolveRequest{Definition: def.ToPB(), Evaluate: true})
}
