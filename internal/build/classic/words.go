package classic

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"

	"github.com/wherry-engine/wherry/internal/build/request"
)

// Recognizable puts a plain entry for the context's directory in front of a
// tar: BuildKit looks at the first kilobyte only to tell a tar from a
// Dockerfile, and the extended headers that some clients begin with are longer.
func Recognizable(body io.Reader) io.Reader {
	r := bufio.NewReader(body)
	head, err := r.Peek(512)
	if err != nil || !bytes.Equal(head[257:262], []byte("ustar")) {
		return r
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755, Format: tar.FormatUSTAR}); err != nil {
		return r // it always fits
	}
	return io.MultiReader(&b, r)
}

var (
	failedStep   = regexp.MustCompile(`process ("(?:[^"\\]|\\.)*") did not complete successfully`)
	missingFile  = regexp.MustCompile(`failed to calculate checksum of ref \S+: "([^"]*)": not found`)
	missingBuild = regexp.MustCompile(`failed to read dockerfile: open ([^:]+): no such file or directory`)
)

// Error tells a failure in the classic builder's words, if it has some.
func Error(err error) (told error, ok bool) {
	var exit *gatewayapi.ExitError
	if errors.As(err, &exit) && exit.ExitCode < gatewayapi.UnknownExitStatus {
		command := ""
		if m := failedStep.FindStringSubmatch(err.Error()); m != nil {
			command, _ = strconv.Unquote(m[1])
		}
		return &request.StepError{Command: command, Code: int(exit.ExitCode)}, true
	}
	text := err.Error()
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
