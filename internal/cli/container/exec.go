package container

import (
	"context"
	"errors"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/stream"
)

type execFlags struct {
	detach, interactive, tty, privileged bool
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
	api, err := sh.API()
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
			if _, missing := api.ContainerInspect(ctx, name, client.ContainerInspectOptions{}); missing != nil {
				return missing
			}
			return err
		}
	}
	if e.tty {
		req.ConsoleSize.Height, req.ConsoleSize.Width = sh.Out.Size()
	}
	res, err := api.ExecCreate(ctx, name, req)
	if err != nil {
		return err
	}
	if res.ID == "" {
		return errors.New("exec ID empty")
	}
	if e.detach {
		_, err := api.ExecStart(ctx, res.ID, client.ExecStartOptions{Detach: true, TTY: e.tty, ConsoleSize: req.ConsoleSize})
		return err
	}
	return e.stream(ctx, sh, api, res.ID, &req)
}

func (e *execFlags) stream(ctx context.Context, sh *shell.Shell, api client.APIClient, id string, req *client.ExecCreateOptions) error {
	conn, err := api.ExecAttach(ctx, id, client.ExecAttachOptions{TTY: e.tty, ConsoleSize: req.ConsoleSize})
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
			_, err := api.ExecResize(ctx, id, client.ExecResizeOptions{Height: h, Width: w})
			return err
		})
	}
	if err := s.Run(ctx); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	st, err := api.ExecInspect(ctx, id, client.ExecInspectOptions{})
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
