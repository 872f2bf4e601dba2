package container

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/image"
	"github.com/wherry-engine/wherry/internal/cli/runopts"
	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/stream"
)

type runFlags struct {
	createFlags
	detach     bool
	sigProxy   bool
	detachKeys string
}

// NewRun is `run`.
func NewRun(sh *shell.Shell) *cobra.Command {
	var r runFlags
	var o *runopts.Options
	cmd := &cobra.Command{
		Use:         "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short:       "Create and run a new container from an image",
		Args:        shell.MinArgs(1),
		Annotations: shell.Aliases("container run", "run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := runopts.Supported(cmd.Flags()); err != nil {
				return err
			}
			o.Image, o.Args = args[0], args[1:]
			if err := r.check(); err != nil {
				return sh.WithHelp(err, "run", 125)
			}
			if err := proxyEnv(sh, o); err != nil {
				return err
			}
			spec, err := o.Parse(cmd.Flags())
			if err != nil {
				return sh.WithHelp(err, "run", 125)
			}
			return r.run(cmd.Context(), sh, o, spec)
		},
		ValidArgsFunction: shell.Complete(sh, 1, image.Names),
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&r.detach, "detach", "d", false, "Leave the container in the background and print its ID")
	f.BoolVar(&r.sigProxy, "sig-proxy", true, "Pass signals on to the process")
	f.StringVar(&r.detachKeys, "detach-keys", "", "Key sequence for detaching from the container")
	r.add(f)
	o = runopts.AddFlags(f)
	completeRunFlags(sh, cmd)
	return cmd
}

func (r *runFlags) run(ctx context.Context, sh *shell.Shell, o *runopts.Options, spec *runopts.Container) error {
	cfg := spec.Config
	if r.detach {
		if o.Attach.Len() != 0 {
			return errors.New("conflicting options: cannot specify both --attach and --detach")
		}
		cfg.AttachStdin, cfg.AttachStdout, cfg.AttachStderr, cfg.StdinOnce = false, false, false, false
	} else if err := sh.In.CheckTTY(cfg.AttachStdin, cfg.Tty); err != nil {
		return err
	}
	keys := detachKeys(sh, r.detachKeys)
	if err := stream.CheckDetachKeys(keys); err != nil {
		return err
	}
	api, err := sh.API()
	if err != nil {
		return err
	}
	id, err := create(ctx, sh, spec, &r.createFlags)
	if err != nil {
		return sh.WithHelp(err, "run", shell.StartCode(err))
	}
	if r.sigProxy {
		defer stream.ForwardSignals(ctx, api, id, cfg.Tty, sh.Debugf)()
	}
	// From here on a signal is the container's business, not a cancel.
	ctx = context.WithoutCancel(ctx)
	if !cfg.AttachStdin && !cfg.AttachStdout && !cfg.AttachStderr {
		if _, err := api.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
			sh.Println(id)
			return startFailed(sh, err)
		}
		sh.Println(id)
		return nil
	}
	err = attached(ctx, sh, api, &attachSpec{
		id: id, stdin: cfg.AttachStdin, stdout: cfg.AttachStdout, stderr: cfg.AttachStderr,
		tty: cfg.Tty, keys: keys, autoRemove: o.AutoRemove,
	})
	var refused *startError
	if errors.As(err, &refused) {
		return startFailed(sh, refused.error)
	}
	return err
}

// startError is the engine's refusal to start, as against anything that went
// wrong with the streams.
type startError struct{ error }

// attachSpec is what attached needs to know of the container.
type attachSpec struct {
	id                    string
	stdin, stdout, stderr bool
	tty                   bool
	keys                  string
	autoRemove            bool
	start                 client.ContainerStartOptions
}

// attached attaches, arms the wait, starts the container and stays until it
// ends or the user detaches. Attaching and waiting are asked for at the same
// time; both must be in place before the start, or output and exit status of
// a short program would be lost.
func attached(ctx context.Context, sh *shell.Shell, api client.APIClient, a *attachSpec) error {
	armed := make(chan client.ContainerWaitResult, 1)
	go func() { armed <- arm(ctx, api, a) }()
	conn, err := api.ContainerAttach(ctx, a.id, client.ContainerAttachOptions{
		Stream: true, Stdin: a.stdin, Stdout: a.stdout, Stderr: a.stderr, DetachKeys: a.keys,
	})
	wait := <-armed
	if err != nil {
		return err
	}
	defer conn.Close()
	session := &stream.Session{Conn: conn.HijackedResponse, TTY: a.tty, DetachKeys: a.keys}
	if a.stdin {
		session.In = sh.In
	}
	if a.stdout {
		session.Out = sh.Out
	}
	if a.stderr {
		session.Err = sh.Err
		if a.tty {
			session.Out, session.Err = sh.Out, sh.Out
		}
	}
	att := stream.Go(ctx, session)
	if _, err := api.ContainerStart(ctx, a.id, a.start); err != nil {
		att.Stop()
		if a.autoRemove {
			_ = status(wait) // the engine removes what never ran; its status means nothing
		}
		return &startError{err}
	}
	if a.tty && sh.Out.IsTerminal() {
		followSize(ctx, sh, func(ctx context.Context, h, w uint) error {
			_, err := api.ContainerResize(ctx, a.id, client.ContainerResizeOptions{Height: h, Width: w})
			return err
		})
	}
	ended := make(chan error, 1)
	go func() { ended <- status(wait) }()
	select {
	case err := <-att.Done():
		if stream.Detached(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return <-ended
	case err := <-ended:
		if !a.stdout && !a.stderr {
			att.Stop() // stdin alone would be read until the user types
			return err
		}
		<-att.Done() // the last output may still be on its way
		return err
	}
}

// startFailed words a refused start: 126 and 127 for a program that cannot be
// run, 125 for the rest.
func startFailed(sh *shell.Shell, err error) error {
	return sh.WithHelp(err, "run", shell.StartCode(err))
}

func arm(ctx context.Context, api client.APIClient, a *attachSpec) client.ContainerWaitResult {
	cond := container.WaitConditionNextExit
	if a.autoRemove {
		cond = container.WaitConditionRemoved
	}
	return api.ContainerWait(ctx, a.id, client.ContainerWaitOptions{Condition: cond})
}

// status waits for the end and turns a non-zero exit code into the program's.
func status(w client.ContainerWaitResult) error {
	select {
	case r := <-w.Result:
		if r.Error != nil {
			return &shell.StatusError{Code: 125, Message: "Error waiting for container: " + r.Error.Message}
		}
		if r.StatusCode != 0 {
			return &shell.StatusError{Code: int(r.StatusCode)}
		}
		return nil
	case err := <-w.Error:
		return &shell.StatusError{Code: 125, Message: fmt.Sprintf("error waiting for container: %v", err), Cause: err}
	}
}

func detachKeys(sh *shell.Shell, flag string) string {
	if flag != "" {
		return flag
	}
	return sh.Config().DetachKeys
}

func followSize(ctx context.Context, sh *shell.Shell, resize func(context.Context, uint, uint) error) {
	stream.FollowSize(ctx, sh.Out.Size, resize, func(err error) {
		sh.Debugf("Error resize: %s", err)
		fmt.Fprintln(sh.Err, "failed to resize tty, using default size")
	})
}
