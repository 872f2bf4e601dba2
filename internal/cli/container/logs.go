package container

import (
	"context"
	"io"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewLogs is `logs`.
func NewLogs(sh *shell.Shell) *cobra.Command {
	o := client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true}
	cmd := &cobra.Command{
		Use:         "logs [OPTIONS] CONTAINER",
		Short:       "Fetch the logs of a container",
		Args:        shell.ExactArgs(1),
		Annotations: shell.Aliases("container logs", "logs"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return logs(cmd.Context(), sh, args[0], o)
		},
		ValidArgsFunction: shell.Complete(sh, 1, all),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Follow, "follow", "f", false, "Follow log output")
	f.StringVar(&o.Since, "since", "", `Only lines after a time ("2013-01-02T13:23:37Z") or from the last while ("42m")`)
	f.StringVar(&o.Until, "until", "", `Only lines before a time ("2013-01-02T13:23:37Z") or older than a while ("42m")`)
	f.BoolVarP(&o.Timestamps, "timestamps", "t", false, "Show timestamps")
	f.BoolVar(&o.Details, "details", false, "Show the extra attributes of each line")
	f.StringVarP(&o.Tail, "tail", "n", "all", "Number of lines from the end")
	return cmd
}

func logs(ctx context.Context, sh *shell.Shell, name string, o client.ContainerLogsOptions) error {
	api, err := sh.API()
	if err != nil {
		return err
	}
	// Whether the stream is framed depends on the container having a terminal.
	c, err := api.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	r, err := api.ContainerLogs(ctx, c.Container.ID, o)
	if err != nil {
		return err
	}
	defer r.Close()
	if c.Container.Config.Tty {
		_, err = io.Copy(sh.Out, r)
	} else {
		_, err = stdcopy.StdCopy(sh.Out, sh.Err, r)
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
