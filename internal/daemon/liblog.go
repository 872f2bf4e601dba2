package daemon

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"
)

// logLibraries sends what containerd's and BuildKit's packages log to the
// engine's own log.
var logLibraries = sync.OnceFunc(func() {
	logrus.SetOutput(io.Discard)
	logrus.AddHook(libraryLog{})
})

type libraryLog struct{}

// Levels are all that the logger lets through.
func (libraryLog) Levels() []logrus.Level { return logrus.AllLevels }

// Fire hands one entry on.
func (libraryLog) Fire(e *logrus.Entry) error {
	level := slog.LevelDebug
	switch {
	case strings.HasPrefix(e.Message, "no trace recorder found"): // nobody asked for traces
	case strings.HasPrefix(e.Message, "failed check for fsverity"): // few file systems have it, nothing needs it
	case strings.HasPrefix(e.Message, "healthcheck failed"): // a builder's client went away
	case e.Level <= logrus.ErrorLevel:
		level = slog.LevelError
	case e.Level == logrus.WarnLevel:
		level = slog.LevelWarn
	}
	ctx := e.Context
	if ctx == nil {
		ctx = context.Background()
	}
	args := make([]any, 0, 2*len(e.Data))
	for k, v := range e.Data {
		if err, ok := v.(error); ok {
			v = err.Error() // without the stack that some carry
		}
		args = append(args, k, v)
	}
	slog.Log(ctx, level, e.Message, args...)
	return nil
}
