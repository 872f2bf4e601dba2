// Package container owns the verbs about containers, one file per verb.
package container

import (
	"errors"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// parallel is how many requests a verb with many arguments has in flight.
const parallel = 50

// each runs do for every name, several at a time, prints the names that
// succeeded in the order given and returns all errors joined.
func each(sh *shell.Shell, names []string, do func(api client.APIClient, name string) error) error {
	api, err := sh.API()
	if err != nil {
		return err
	}
	slots := make(chan struct{}, parallel)
	results := make([]chan error, len(names))
	for i := range names {
		results[i] = make(chan error, 1)
	}
	go func() {
		for i, name := range names {
			slots <- struct{}{}
			go func() {
				results[i] <- do(api, name)
				<-slots
			}()
		}
	}()
	var errs []error
	for i, name := range names {
		if err := <-results[i]; err != nil {
			if !errors.Is(err, errShown) {
				errs = append(errs, err)
			}
			continue
		}
		sh.Println(name)
	}
	return errors.Join(errs...)
}

// errShown marks a failure that the user was told about and that is none.
var errShown = errors.New("already shown")

// Commands returns the verbs for the `container` group.
func Commands(sh *shell.Shell) []*cobra.Command {
	return []*cobra.Command{
		NewAttach(sh), NewCreate(sh), NewExec(sh), NewInspect(sh), NewKill(sh), NewLogs(sh), newLs(sh),
		NewPause(sh), NewPort(sh), NewPrune(sh), NewRename(sh), NewRestart(sh), NewRm(sh), NewRun(sh),
		NewStart(sh), NewStats(sh), NewStop(sh), NewTop(sh), NewUnpause(sh), NewUpdate(sh), NewWait(sh), NewWhy(sh),
	}
}
