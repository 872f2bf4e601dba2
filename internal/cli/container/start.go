package container

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/stream"
)

type startFlags struct {
	attach, interactive       bool
	detachKeys                string
	checkpoint, checkpointDir string
}

// NewStart is `start`.
func NewStart(sh *shell.Shell) *cobra.Command {
	var s startFlags
	cmd := &cobra.Command{
		Use:         "start [OPTIONS] CONTAINER [CONTAINER...]",
		Short:       "Start one or more stopped containers",
		Args:        shell.MinArgs(1),
		Annotations: shell.Aliases("container start", "start"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd.Context(), sh, args)
		},
		ValidArgsFunction: shell.Complete(sh, 0, stopped),
	}
	f := cmd.Flags()
	f.BoolVarP(&s.attach, "attach", "a", false, "Attach STDOUT/STDERR and forward signals")
	f.BoolVarP(&s.interactive, "interactive", "i", false, "Attach the container's STDIN")
	f.StringVar(&s.detachKeys, "detach-keys", "", "Key sequence for detaching from the container")
	f.StringVar(&s.checkpoint, "checkpoint", "", "Checkpoint to restore from")
	f.StringVar(&s.checkpointDir, "checkpoint-dir", "", "Directory of the checkpoint")
	return cmd
}

func (s *startFlags) run(ctx context.Context, sh *shell.Shell, names []string) error {
	keys := detachKeys(sh, s.detachKeys)
	if err := stream.CheckDetachKeys(keys); err != nil {
		return err
	}
	api, err := sh.API()
	if err != nil {
		return err
	}
	if s.attach || s.interactive {
		if len(names) > 1 {
			return errors.New("you cannot start and attach multiple containers at once")
		}
		return s.attached(ctx, sh, api, names[0], keys)
	}
	if s.checkpoint != "" {
		if len(names) > 1 {
			return errors.New("you cannot restore multiple containers at once")
		}
		_, err := api.ContainerStart(ctx, names[0], client.ContainerStartOptions{CheckpointID: s.checkpoint, CheckpointDir: s.checkpointDir})
		return err
	}
	var failed []string
	for _, n := range names {
		if _, err := api.ContainerStart(ctx, n, client.ContainerStartOptions{}); err != nil {
			if shell.TooNew(err) != "" {
				return err
			}
			fmt.Fprintln(sh.Err, err)
			failed = append(failed, n)
			continue
		}
		sh.Println(n)
	}
	if len(failed) > 0 {
		return fmt.Errorf("Error: failed to start containers: %s", strings.Join(failed, ", "))
	}
	return nil
}

func (s *startFlags) attached(ctx context.Context, sh *shell.Shell, api client.APIClient, name, keys string) error {
	res, err := api.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	c := res.Container
	if !c.Config.Tty {
		defer stream.ForwardSignals(ctx, api, c.ID, false, sh.Debugf)()
	}
	err = attached(context.WithoutCancel(ctx), sh, api, &attachSpec{
		id: c.ID, stdin: s.interactive && c.Config.OpenStdin, stdout: true, stderr: true,
		tty: c.Config.Tty, keys: keys, autoRemove: c.HostConfig.AutoRemove,
		start: client.ContainerStartOptions{CheckpointID: s.checkpoint, CheckpointDir: s.checkpointDir},
	})
	var refused *startError
	if errors.As(err, &refused) {
		return refused.error
	}
	return err
}
