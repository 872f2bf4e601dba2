// Package build owns the verbs about builds: `build`, and the group that shows
// and frees what builds keep. It speaks to the BuildKit inside the engine, over
// /grpc and /session of the engine's API, and reads the context, secrets and
// credentials of the user's machine as the engine asks for them.
//
// It is linked only into wherry-build: BuildKit's client would make each
// command of wherry itself slower to start.
package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/moby/buildkit/client"
	solvererr "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/buildkit/util/progress/progressui"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/wherry-engine/wherry/internal/cli/build/localdir"
	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// Exit codes of a failed build besides 1, as buildx has them.
const (
	exitInternal  = 100
	exitExhausted = 102
	exitCanceled  = 130
)

// noEngine is in the error of a connection that could not be made.
const noEngine = "cannot connect to the Docker daemon"

// NewBuild is `build`.
func NewBuild(sh *shell.Shell) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:         "build [OPTIONS] PATH | URL | -",
		Short:       "Build an image from a Dockerfile",
		Args:        shell.ExactArgs(1),
		Annotations: shell.Aliases("build", "image build", "builder build", "buildx build"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.context = args[0]
			return failed(sh, "failed to build", o.run(cmd.Context(), sh, cmd.Flags()))
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	o.addTo(cmd)
	return cmd
}

// failed words an error as buildx does: the lines of the Dockerfile that it
// came from, then ERROR.
func failed(sh *shell.Shell, what string, err error) error {
	if err == nil || errors.As(err, new(*shell.StatusError)) {
		return err
	}
	if strings.Contains(err.Error(), noEngine) {
		// The API client has docker's words for it.
		if api, apiErr := sh.API(); apiErr == nil {
			if _, pingErr := api.Ping(context.Background(), mobyclient.PingOptions{}); pingErr != nil {
				return &shell.StatusError{Code: 1, Message: "ERROR: " + pingErr.Error(), Cause: err}
			}
		}
	}
	for _, s := range solvererr.Sources(err) {
		if s.Print(sh.Err) != nil {
			break // stderr is gone
		}
	}
	code := 1
	switch grpcerrors.Code(err) {
	case codes.Internal:
		code = exitInternal
	case codes.ResourceExhausted:
		code = exitExhausted
	case codes.Canceled:
		code = exitCanceled
	default:
		if errors.Is(err, context.Canceled) {
			code = exitCanceled
		}
	}
	return &shell.StatusError{Code: code, Message: fmt.Sprintf("ERROR: %s: %v", what, err), Cause: err}
}

// run builds. Everything that can be wrong with the command line is found
// before the engine is asked to build anything.
func (o *options) run(ctx context.Context, sh *shell.Shell, flags flagSet) error {
	if err := o.check(sh, flags); err != nil {
		return err
	}
	if err := o.places(); err != nil {
		return err
	}
	engine, err := connect(ctx, sh) // which goes on while the rest is prepared
	if err != nil {
		return err
	}
	opt := client.SolveOpt{Frontend: "dockerfile.v0", FrontendAttrs: map[string]string{}}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	in := inputs{opt: &opt, stdin: sh.In, fail: fail}
	if err := in.load(o); err != nil {
		return err
	}
	defer in.close()
	if l := localdir.Lend(engine.api, in.dirs); l != nil {
		opt.Session = append(opt.Session, l)
	}
	if err := o.attributes(sh, &opt); err != nil {
		return err
	}
	out, err := o.exports(sh, &opt)
	if err != nil {
		return err
	}
	if err := o.cache(sh, &opt); err != nil {
		return err
	}
	if err := o.attach(sh, &opt); err != nil {
		return err
	}
	show, err := newDisplay(sh, o.mode())
	if err != nil {
		return err
	}
	if o.call.name != "" {
		return because(ctx, o.ask(ctx, sh, engine, &opt, show))
	}
	if err := o.forget(); err != nil {
		return err
	}
	opt.Ref = newRef()
	res, err := show.follow(func(ch chan *client.SolveStatus) (*client.SolveResponse, error) {
		return engine.kit.Solve(ctx, nil, opt, ch)
	})
	if err != nil {
		out.discard()
		return o.badPattern(because(ctx, err))
	}
	if err := out.finish(ctx, sh, o); err != nil {
		return err
	}
	return o.report(sh.Out, opt.Ref, res.ExporterResponse, show)
}

// because is the error of a build, or that of the file which has ended it.
func because(ctx context.Context, err error) error {
	if unreadable := (*localdir.UnreadableError)(nil); err != nil && errors.As(context.Cause(ctx), &unreadable) {
		return unreadable
	}
	return err
}

// report writes the files and the line that the user asked for.
func (o *options) report(stdout io.Writer, ref string, res map[string]string, show *display) error {
	id := imageID(res)
	if (o.quiet || o.progress == string(progressui.QuietMode)) && id != "" {
		if _, err := fmt.Fprintln(stdout, id); err != nil {
			return err
		}
	}
	if o.iidFile != "" {
		if id == "" {
			return fmt.Errorf("--iidfile: the output has no image whose id could be written")
		}
		if err := os.WriteFile(o.iidFile, []byte(id), 0o644); err != nil {
			return fmt.Errorf("writing image ID file: %w", err)
		}
	}
	if o.metadataFile != "" {
		return writeMetadata(o.metadataFile, ref, res, show.warnings)
	}
	return nil
}
