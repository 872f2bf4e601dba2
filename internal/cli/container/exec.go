package container

import (
	"context"
	"errors"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/api"
	wherry "github.com/wherry-engine/wherry/client"
	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/stream"
)

type execFlags struct {
	detach, interactive, tty, privileged bool
	kill                                 bool
	user, workdir, detachKeys            string
	env, envFile                         opts.ListOpts
}

// NewExec is `exec`.
func NewExec(sh *shell.Shell) *cobra.Command {
	e := execFlags{env: opts.NewListOpts(opts.ValidateEnv), envFile: opts.NewListOpts(nil)}
	cmd := &cobra.Command{
		Use:         "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		Short:       "Execute a command in a running container",
		Args:        shell.MinArgs(2),
		Annotations: shell.Aliases("container exec", "exec"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.run(cmd.Context(), sh, args[0], args[1:])
		},
		ValidArgsFunction: shell.Complete(sh, 1, running),
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVar(&e.detachKeys, "detach-keys", "", "Key sequence for detaching from the command")
	f.BoolVarP(&e.interactive, "interactive", "i", false, "Keep STDIN open, attached or not")
	f.BoolVarP(&e.tty, "tty", "t", false, "Allocate a pseudo-TTY")
	f.BoolVarP(&e.detach, "detach", "d", false, "Leave the command in the background")
	f.StringVarP(&e.user, "user", "u", "", `User name or UID ("<name|uid>[:<group|gid>]")`)
	f.BoolVar(&e.privileged, "privileged", false, "Give the command extended privileges")
	f.BoolVar(&e.kill, "kill-on-disconnect", false, "Kill the command when this client vanishes (wherryd only)")
	f.VarP(&e.env, "env", "e", "Set environment variables")
	f.Var(&e.envFile, "env-file", "Read environment variables from a file")
	f.StringVarP(&e.workdir, "workdir", "w", "", "Working directory inside the container")
	return cmd
}

func (e *execFlags) run(ctx context.Context, sh *shell.Shell, name string, command []string) error {
	env, err := opts.ReadKVEnvStrings(e.envFile.GetSlice(), e.env.GetSlice())
	if err != nil {
		return err
	}
	c, err := sh.API()
	if err != nil {
		return err
	}
	keys := detachKeys(sh, e.detachKeys)
	req := client.ExecCreateOptions{
		User: e.user, Privileged: e.privileged, TTY: e.tty, Cmd: command, WorkingDir: e.workdir,
		Env: env, DetachKeys: keys,
	}
	if !e.detach {
		req.AttachStdout, req.AttachStderr, req.AttachStdin = true, true, e.interactive
		if err := sh.In.CheckTTY(e.interactive, e.tty); err != nil {
			// That the container does not exist is the better news to give.
			if _, missing := c.ContainerInspect(ctx, name, client.ContainerInspectOptions{}); missing != nil {
				return missing
			}
			return err
		}
	}
	if e.tty {
		req.ConsoleSize.Height, req.ConsoleSize.Width = sh.Out.Size()
	}
	id, err := e.create(ctx, c, name, &req)
	if err != nil {
		return err
	}
	if id == "" {
		return errors.New("exec ID empty")
	}
	if e.detach {
		_, err := c.ExecStart(ctx, id, client.ExecStartOptions{Detach: true, TTY: e.tty, ConsoleSize: req.ConsoleSize})
		return err
	}
	return e.stream(ctx, sh, c, id, &req)
}

func (e *execFlags) create(ctx context.Context, c client.APIClient, name string, o *client.ExecCreateOptions) (string, error) {
	if !e.kill {
		res, err := c.ExecCreate(ctx, name, *o)
		return res.ID, err
	}
	req := container.ExecCreateRequest{
		User: o.User, Privileged: o.Privileged, Tty: o.TTY, AttachStdin: o.AttachStdin, AttachStdout: o.AttachStdout, AttachStderr: o.AttachStderr,
		DetachKeys: o.DetachKeys, Env: o.Env, WorkingDir: o.WorkingDir, Cmd: o.Cmd,
	}
	if o.TTY {
		req.ConsoleSize = &[2]uint{o.ConsoleSize.Height, o.ConsoleSize.Width}
	}
	return wherry.ExecCreate(ctx, c, name, api.ExecRequest{ExecCreateRequest: req, KillOnDisconnect: true})
}

func (e *execFlags) stream(ctx context.Context, sh *shell.Shell, c client.APIClient, id string, req *client.ExecCreateOptions) error {
	conn, err := c.ExecAttach(ctx, id, client.ExecAttachOptions{TTY: e.tty, ConsoleSize: req.ConsoleSize})
	if err != nil {
		return err
	}
	defer conn.Close()
	s := &stream.Session{Out: sh.Out, Err: sh.Err, Conn: conn.HijackedResponse, TTY: e.tty, DetachKeys: req.DetachKeys}
	if e.interactive {
		s.In = sh.In
	}
	if e.tty && sh.In.IsTerminal() {
		followSize(ctx, sh, func(ctx context.Context, h, w uint) error {
			_, err := c.ExecResize(ctx, id, client.ExecResizeOptions{Height: h, Width: w})
			return err
		})
	}
	if err := s.Run(ctx); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	st, err := c.ExecInspect(ctx, id, client.ExecInspectOptions{})
	if err != nil {
		if client.IsErrConnectionFailed(err) {
			return &shell.StatusError{Code: 255, Cause: err}
		}
		return err
	}
	if st.ExitCode != 0 {
		return &shell.StatusError{Code: st.ExitCode}
	}
	return nil
}
