package query

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/api"
	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/logs"
)

// whyLines is how many of the last log lines come with an answer.
const whyLines = 10

// Why tells what ended a container, and what to do.
func (v *View) Why(ctx context.Context, ref string) (*api.Why, error) {
	c, err := v.store.Get(ref)
	if err != nil {
		return nil, err
	}
	r := c.Snapshot()
	w := &api.Why{ID: r.ID, Name: r.Name, Image: r.Config.Image, Status: string(r.State.Status()), More: []string{}, Advice: []string{}, Log: []string{}}
	explain(w, &r)
	files, ok := logFiles(&r, c.Dir())
	if !ok {
		return w, nil
	}
	err = logs.Read(ctx, files, logs.ReadOptions{Tail: whyLines}, func(e logs.Entry) error {
		w.Log = append(w.Log, strings.TrimRight(string(e.Line), "\r\n"))
		return nil
	})
	return w, err
}

func explain(w *api.Why, r *container.Record) {
	s := &r.State
	more := func(format string, args ...any) { w.More = append(w.More, fmt.Sprintf(format, args...)) }
	switch {
	case s.Error != "":
		explainStart(w, r)
		return
	case s.Running && !s.Restarting && r.End == nil:
		w.Reason = "it is running, since " + moment(s.StartedAt)
	case r.End == nil && s.StartedAt.IsZero():
		w.Reason = "it has never been started"
		w.Advice = append(w.Advice, "start it: wherry start "+r.Name)
	case r.End == nil:
		w.Reason = fmt.Sprintf("it exited with code %d; an engine before this one did not note more", s.ExitCode)
	default:
		w.Ended = ended(r.End)
		explainEnd(w, r)
		if s.Running && !s.Restarting {
			w.Reason = "it is running, since " + moment(s.StartedAt) + "; before that " + w.Reason
		}
		more("ran from %s to %s (%s)", moment(r.End.StartedAt), moment(r.End.At), units.HumanDuration(r.End.At.Sub(r.End.StartedAt)))
	}
	if r.RestartCount > 0 {
		more("restarted %d times by its policy %s", r.RestartCount, r.HostConfig.RestartPolicy.Name)
	}
	if h := s.Health; h != nil && h.FailingStreak > 0 {
		more("health: %s, %d checks in a row failed, the last with: %s", h.Status, h.FailingStreak, strings.TrimSpace(h.Log[len(h.Log)-1].Output))
	}
}

func moment(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// ended is the part of the answer that programs read.
func ended(e *container.End) *api.Ended {
	out := &api.Ended{Kind: api.KindExit, At: e.At, StartedAt: e.StartedAt, ExitCode: e.Code}
	if e.Signal != 0 {
		out.Kind, out.Signal = api.KindSignal, signalName(e.Signal)
	}
	if c := e.Cause; c != nil {
		out.Kind, out.By, out.Forced = api.KindRequest, c.By, c.Forced
		switch c.What {
		case container.CauseHealth:
			out.Kind = api.KindHealth
		case container.CauseShutdown:
			out.Kind = api.KindShutdown
		default:
			out.Request = c.What
		}
	}
	if e.Unknown != "" {
		out.Kind = api.KindUnknown
	}
	if o := e.OOM; o != nil {
		out.Process, out.Limit = o.Process, o.Limit
		if e.Cause == nil {
			out.Kind = api.KindOOM
		}
	}
	return out
}

func signalName(n int) string {
	return strings.TrimPrefix(unix.SignalName(syscall.Signal(n)), "SIG")
}

func explainEnd(w *api.Why, r *container.Record) {
	e, x := r.End, w.Ended
	how := fmt.Sprintf("with code %d", e.Code)
	if e.Signal != 0 {
		how = "by SIG" + x.Signal
	}
	by := x.By
	if by == "" {
		by = "the engine"
	}
	advise := func(format string, args ...any) { w.Advice = append(w.Advice, fmt.Sprintf(format, args...)) }
	switch x.Kind {
	case api.KindOOM:
		explainOOM(w, r)
	case api.KindUnknown:
		w.Reason = "it ended while nobody watched: " + e.Unknown
		advise("a restart policy starts it after a reboot: wherry update --restart unless-stopped %s", r.Name)
	case api.KindHealth:
		w.Reason = "its health check failed, and --health-on-failure ended it, " + how
		advise("see what the check said: wherry inspect -f '{{json .State.Health}}' %s", r.Name)
	case api.KindShutdown:
		w.Reason = "the engine was stopped and took it along (live-restore is off)"
	case api.KindRequest:
		c := e.Cause
		w.Reason = fmt.Sprintf("%s was asked for by %s at %s; it ended %s", c.What, by, moment(c.At), how)
		switch {
		case c.Forced:
			w.Reason += fmt.Sprintf(", for it did not end by SIG%s in time", signalName(c.Signal))
			advise("let the program end by SIG%s (a shell as the first process does not pass it on: use exec, or --init), or give it more time: wherry stop -t 60 %s", signalName(c.Signal), r.Name)
		case c.What == container.CauseKill:
			w.Reason += fmt.Sprintf(" (signal %s)", signalName(c.Signal))
		}
	case api.KindSignal:
		w.Reason = "it was ended " + how + ", which did not come from the engine"
		switch syscall.Signal(e.Signal) {
		case syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGILL, syscall.SIGFPE, syscall.SIGABRT, syscall.SIGSYS:
			w.Reason = "its program crashed (SIG" + x.Signal + ")"
			advise("look for the crash in the program; an image of another architecture, or a seccomp profile, does this too")
		case syscall.SIGKILL:
			advise("somebody on the host killed it, or the host was out of memory: dmesg | grep -i 'out of memory'")
		}
	default:
		w.Reason = "its program ended by itself " + how
		explainCode(w, r)
	}
	if e.Again != "" {
		w.More = append(w.More, "the restart policy "+e.Again+" starts it again")
	}
}

func explainOOM(w *api.Why, r *container.Record) {
	o := r.End.OOM
	victim := "a process"
	if o.Process != "" {
		victim = fmt.Sprintf("%s (pid %d on the host, %s)", o.Process, o.PID, units.BytesSize(float64(o.RSS)))
	}
	if o.Limit == 0 {
		w.Reason = "the host was out of memory, and the kernel killed " + victim
		w.Advice = append(w.Advice, "give the container a limit below what the host has (--memory), or the host more memory")
		return
	}
	limit := units.BytesSize(float64(o.Limit))
	w.Reason = fmt.Sprintf("it reached its memory limit of %s, and the kernel killed %s", limit, victim)
	w.Advice = append(w.Advice, fmt.Sprintf("raise the limit: wherry update --memory %d --memory-swap -1 %s; or find what needs the memory: wherry stats", 2*o.Limit, r.Name))
}

func explainCode(w *api.Why, r *container.Record) {
	advise := func(text string) { w.Advice = append(w.Advice, text) }
	switch code := r.End.Code; {
	case code == 0:
		if len(r.Args) == 0 && (strings.HasSuffix(r.Path, "sh") || strings.HasSuffix(r.Path, "bash")) {
			advise("a shell without input ends at once: use -it, or give it a command")
		} else {
			advise("0 is success: nothing more was to be done. A service has to stay in the foreground")
		}
	case code == 126 || code == 127:
		advise("126 and 127 come from a shell that cannot run, or not find, a command: see the log")
	case code > 128 && code < 160:
		w.More = append(w.More, fmt.Sprintf("codes above 128 mostly tell of a child that was ended by a signal: %d is SIG%s", code, signalName(code-128)))
	default:
		advise("the code is the program's own: see the log")
	}
}

func explainStart(w *api.Why, r *container.Record) {
	s := &r.State
	w.Reason = "it could not be started: " + s.Error
	w.Ended = &api.Ended{Kind: api.KindStart, ExitCode: s.ExitCode}
	text := s.Error
	has := func(words ...string) bool {
		for _, x := range words {
			if strings.Contains(text, x) {
				return true
			}
		}
		return false
	}
	advise := func(format string, args ...any) { w.Advice = append(w.Advice, fmt.Sprintf(format, args...)) }
	switch {
	case has("port is already allocated", "address already in use"):
		advise("another program or container has the port: wherry ps, ss -lntup; or publish another one")
	case s.ExitCode == 127:
		advise("the image has no such program, or its interpreter is missing: wherry run --rm -it --entrypoint sh %s", r.Config.Image)
	case s.ExitCode == 126:
		advise("the file cannot be executed: check its mode, and that it is no directory and for this architecture")
	case has("mount"):
		advise("check the source and the target of the mounts: wherry inspect -f '{{json .Mounts}}' %s", r.Name)
	}
}
