package stream

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/moby/moby/client"
	msignal "github.com/moby/sys/signal"
)

// Killer sends a signal to a container.
type Killer interface {
	ContainerKill(ctx context.Context, id string, o client.ContainerKillOptions) (client.ContainerKillResult, error)
}

// ForwardSignals passes every signal that this process gets on to the
// container until stop is called. Not ctx but stop ends it: a cancelled verb
// must still deliver the signal that cancelled it. A program on a terminal
// learns of a new window size from its own terminal, not as a signal.
//
// What users and service managers send is caught when it returns, the rest a
// moment later: the runtime takes some 25 microseconds for each, which together
// is more than most other steps of a run that lasts a few milliseconds.
func ForwardSignals(ctx context.Context, k Killer, id string, tty bool, debugf func(string, ...any)) (stop func()) {
	ctx = context.WithoutCancel(ctx)
	c := make(chan os.Signal, 128)
	signal.Notify(c, usual...)
	quit := make(chan struct{})
	rest := time.AfterFunc(20*time.Millisecond, func() { signal.Notify(c) })
	go func() {
		for {
			select {
			case <-quit:
				return
			case s := <-c:
				name := forwardName(s)
				if name == "" || tty && s == resized {
					continue
				}
				if _, err := k.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: name}); err != nil {
					debugf("Error sending signal: %s", err)
				}
			}
		}
	}()
	// Caught they stay: the program ends next, and giving each back takes as long.
	return func() {
		rest.Stop()
		close(quit)
	}
}

// forwardName returns "" for signals that are about this process only.
func forwardName(s os.Signal) string {
	if slices.Contains(private, s) {
		return ""
	}
	for name, n := range msignal.SignalMap {
		if n == s {
			return name
		}
	}
	return ""
}

// FollowSize tells the program behind resize the terminal's size now and each
// time it changes, until ctx ends. An engine that needs a moment until the
// program has its terminal is asked again a few times.
func FollowSize(ctx context.Context, size func() (h, w uint), resize func(ctx context.Context, h, w uint) error, fail func(error)) {
	ask := func() error {
		h, w := size()
		if h == 0 && w == 0 {
			return nil
		}
		return resize(ctx, h, w)
	}
	changes, stop := sizeChanges()
	go func() {
		defer stop()
		err := ask()
		for try := 1; err != nil && try <= 10; try++ {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Duration(try) * 10 * time.Millisecond):
				err = ask()
			}
		}
		if err != nil {
			fail(err)
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-changes:
				_ = ask() // the program may just have ended
			}
		}
	}()
}
