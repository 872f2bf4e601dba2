package classic

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"

	"github.com/wherry-engine/wherry/internal/build/buildcontext"
	"github.com/wherry-engine/wherry/internal/build/request"
)

var (
	failedStep   = regexp.MustCompile(`process ("(?:[^"\\]|\\.)*") did not complete successfully`)
	missingFile  = regexp.MustCompile(`failed to calculate checksum of ref \S+: "([^"]*)": not found`)
	missingBuild = regexp.MustCompile(`failed to read dockerfile: open ([^:]+): no such file or directory`)
)

// notStarted is the code of a step that could not begin for a reason that it
// could not print.
const notStarted = 128

// Error tells a failure in the classic builder's words, if it has some.
func Error(err error) (told error, ok bool) {
	var exit *gatewayapi.ExitError
	if errors.As(err, &exit) && exit.ExitCode < gatewayapi.UnknownExitStatus {
		if exit.ExitCode == notStarted && exit.Err != nil {
			return exit.Err, true
		}
		command := ""
		if m := failedStep.FindStringSubmatch(err.Error()); m != nil {
			command, _ = strconv.Unquote(m[1])
		}
		return &request.StepError{Command: command, Code: int(exit.ExitCode)}, true
	}
	text := err.Error()
	if i := strings.Index(text, buildcontext.Broken); i >= 0 {
		return errdefs.ErrInvalidArgument.WithMessage(text[i:]), true
	}
	if m := missingFile.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("COPY failed: file not found in build context or excluded by .dockerignore: stat %s: file does not exist", strings.TrimPrefix(m[1], "/")), true
	}
	if m := missingBuild.FindStringSubmatch(text); m != nil {
		return errdefs.ErrInvalidArgument.WithMessage("Cannot locate specified Dockerfile: " + m[1]), true
	}
	if strings.HasSuffix(text, "file with no instructions") {
		return errdefs.ErrInvalidArgument.WithMessage("the Dockerfile cannot be empty"), true
	}
	return nil, false
}
