package container

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/stream"
)

type attachFlags struct {
	noStdin, sigProxy bool
	detachKeys        string
}

// NewAttach is `attach`.
func NewAttach(sh *shell.Shell) *cobra.Command {
	var a attachFlags
	cmd := &cobra.Command{
		Use:         "attach [OPTIONS] CONTAINER",
		Short:       "Connect your terminal's streams to a running container",
		Args:        shell.ExactArgs(1),
		Annotations: shell.Aliases("container attach", "attach"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd.Context(), sh, args[0])
		},
		ValidArgsFunction: shell.Complete(sh, 1, running),
	}
	f := cmd.Flags()
	f.BoolVar(&a.noStdin, "no-stdin", false, "Leave STDIN alone")
	f.BoolVar(&a.sigProxy, "sig-proxy", true, "Pass all signals on to the process")
	f.StringVar(&a.detachKeys, "detach-keys", "", "Key sequence for detaching from the container")
	return cmd
}

func (a *attachFlags) run(ctx context.Context, sh *shell.Shell, name string) error {
	keys := detachKeys(sh, a.detachKeys)
	if err := stream.CheckDetachKeys(keys); err != nil {
		return err
	}
	api, err := sh.API()
	if err != nil {
		return err
	}
	wait := api.ContainerWait(context.WithoutCancel(ctx), name, client.ContainerWaitOptions{})
	c, err := attachable(ctx, api, name)
	if err != nil {
		return err
	}
	if err := sh.In.CheckTTY(!a.noStdin, c.Config.Tty); err != nil {
		return err
	}
	stdin := !a.noStdin && c.Config.OpenStdin
	if a.sigProxy && !c.Config.Tty {
		defer stream.ForwardSignals(ctx, api, name, false, sh.Debugf)()
	}
	conn, err := api.ContainerAttach(ctx, name, client.ContainerAttachOptions{
		Stream: true, Stdin: stdin, Stdout: true, Stderr: true, DetachKeys: keys,
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	// It may have ended between the look and the attach; then no end of
	// stream would ever come.
	if _, err := attachable(ctx, api, name); err != nil {
		return err
	}
	if c.Config.Tty && sh.Out.IsTerminal() {
		resize := func(ctx context.Context, h, w uint) error {
			_, err := api.ContainerResize(ctx, name, client.ContainerResizeOptions{Height: h, Width: w})
			return err
		}
		// A program redraws only when the size changes, so change it first.
		if h, w := sh.Out.Size(); h != 0 {
			if err := resize(ctx, h+1, w+1); err != nil {
				sh.Debugf("Error resize: %s", err)
			}
		}
		followSize(ctx, sh, resize)
	}
	s := &stream.Session{Out: sh.Out, Err: sh.Err, Conn: conn.HijackedResponse, TTY: c.Config.Tty, DetachKeys: keys}
	if stdin {
		s.In = sh.In
	}
	if err := s.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	select {
	case r := <-wait.Result:
		if r.Error != nil {
			return errors.New(r.Error.Message)
		}
		if r.StatusCode != 0 {
			return &shell.StatusError{Code: int(r.StatusCode)}
		}
		return nil
	case err := <-wait.Error:
		return err
	}
}

func attachable(ctx context.Context, api client.APIClient, name string) (*container.InspectResponse, error) {
	res, err := api.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if err != nil {
		return nil, err
	}
	switch st := res.Container.State; {
	case !st.Running:
		return nil, errors.New("cannot attach to a stopped container, start it first")
	case st.Paused:
		return nil, errors.New("cannot attach to a paused container, unpause it first")
	case st.Restarting:
		return nil, errors.New("cannot attach to a restarting container, wait until it is running")
	}
	return &res.Container, nil
}
