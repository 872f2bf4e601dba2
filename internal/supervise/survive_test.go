package supervise

import (
	"context"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/logs"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
)

// checkNumbers fails unless s is the lines 0 to n-1.
func checkNumbers(t *testing.T, s string, n int) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	for i, l := range lines {
		if l != strconv.Itoa(i) {
			t.Fatalf("line %d is %q", i, l)
		}
	}
	if len(lines) != n {
		t.Fatalf("%d lines, want %d", len(lines), n)
	}
}

// TestEngineComesAndGoes: the log and an attached client miss nothing.
func TestEngineComesAndGoes(t *testing.T) {
	e := newEngine(t)
	key, target := Key{Container: "c"}, e.logTarget()
	target.MaxSize, target.MaxFile = 100_000, 100
	conn, theirs := socket(t)
	started := e.start(&StartRequest{
		Key: key, Plan: argv("self:count", strconv.Itoa(math.MaxInt), "1ms"), Log: target,
		Attach: []Attachment{{Conn: theirs, Stdout: true}},
	})
	theirs.Close()
	seen := make(chan string)
	go func() { b, _ := io.ReadAll(conn); seen <- string(b) }()
	for range 10 {
		time.Sleep(50 * time.Millisecond)
		e.Close()
		e.connect()
		list, err := e.List(t.Context())
		if err != nil || len(list) != 1 || list[0].PID != started.PID || list[0].Exited != nil {
			t.Fatalf("%+v, %v", list, err)
		}
	}
	if err := e.Signal(t.Context(), key, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if x := wait[Exit](e, key); x.Code != 7 {
		t.Errorf("%+v", x)
	}
	log := readLog(t, target)
	n := strings.Count(log, "\n")
	checkNumbers(t, log, n)
	checkNumbers(t, <-seen, n)
	if n < 10 {
		t.Errorf("only %d lines", n)
	}
}

// TestStartedByAnother: what an engine that has gone was starting is listed for
// the next one, which would take it for something that does not run.
func TestStartedByAnother(t *testing.T) {
	e := newEngine(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	key, first := Key{Container: "c"}, e.Client
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = first.Start(t.Context(), &StartRequest{Key: key, Plan: argv("late:"+fifo, "/bin/sleep", "1000"), Log: e.logTarget()}) // it has gone
	}()
	start, err := os.OpenFile(fifo, os.O_WRONLY, 0) // when the keeper has begun with it
	if err != nil {
		t.Fatal(err)
	}
	e.Close()
	<-done
	e.connect()
	listed := make(chan []Process, 1)
	go func() {
		list, err := e.List(t.Context())
		if err != nil {
			t.Error(err)
		}
		listed <- list
	}()
	var list []Process
	select {
	case list = <-listed:
		start.Close()
	case <-time.After(200 * time.Millisecond): // it waits: nothing tells that
		start.Close()
		list = <-listed
	}
	if len(list) != 1 || list[0].Key != key {
		t.Errorf("listed %+v", list)
	}
}

// TestExitWhileAway: an exit that nobody was there for is kept, also when the
// keeper has ended since, until it is forgotten.
func TestExitWhileAway(t *testing.T) {
	e := newEngine(t)
	key := Key{Container: "c"}
	started := e.start(&StartRequest{Key: key, Plan: sh("sleep 0.2; exit 9")})
	pid := e.keeperPID()
	e.Close()
	waitGone(t, pid) // it has nothing left to do
	e.connect()
	list, err := e.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Exited == nil || list[0].Exited.Code != 9 || list[0].PID != started.PID {
		t.Fatalf("%+v, %v", list, err)
	}
	if err := e.Forget(t.Context(), key); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Join(e.cfg.Dir, "exits")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestNewestEngineWins(t *testing.T) {
	e := newEngine(t)
	old := e.Client
	e.connect()
	for range old.Events() {
	}
	if _, err := old.List(t.Context()); err == nil || !strings.Contains(err.Error(), "another engine") {
		t.Errorf("%v", err)
	}
	if _, err := e.List(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestUpgrade changes the program under running processes.
func TestUpgrade(t *testing.T) {
	e := newEngine(t)
	key, target := Key{Container: "c"}, e.logTarget()
	conn, theirs := socket(t)
	const n = 1000
	started := e.start(&StartRequest{
		Key: key, Plan: argv("self:count", strconv.Itoa(n), "1ms"), Log: target,
		Attach: []Attachment{{Conn: theirs, Stdout: true}},
	})
	theirs.Close()
	term, slow := Key{Container: "t"}, Key{Container: "s"}
	plan := sh("stty -echo; read x; echo got $x; exit 3")
	plan.Terminal = true
	c2, theirs2 := socket(t)
	e.start(&StartRequest{Key: term, Plan: plan, Attach: []Attachment{{Conn: theirs2, Stdin: true, Stdout: true}}})
	theirs2.Close()
	c3, theirs3 := socket(t)
	e.start(&StartRequest{
		Key: slow, Plan: sh("head -c 1000000 /dev/zero; printf half >&2; sleep 2; echo line >&2"), Log: e.logTarget(),
		Attach: []Attachment{{Conn: theirs3, Stdout: true, Stderr: true}},
	})
	theirs3.Close()
	seen := make(chan string)
	go func() { b, _ := io.ReadAll(conn); seen <- string(b) }()
	keeper := e.keeperPID()
	for i := range 5 {
		time.Sleep(100 * time.Millisecond)
		next := append(append([]byte(nil), e.cfg.Keeper...), byte(i))
		if i%2 == 0 { // at a new engine's start
			e.Close()
			e.cfg.Keeper = next
			e.connect()
		} else if err := e.Upgrade(t.Context(), next); err != nil {
			t.Fatal(err, e.keeperLog())
		}
		if got := e.keeperPID(); got != keeper {
			t.Fatalf("keeper is %d, was %d", got, keeper)
		}
	}
	if s := readAll(t, c3); len(s) != 1000000+len("halfline\n") {
		t.Errorf("the slow client got %d bytes", len(s))
	}
	e.exit(slow)
	e.exit(key)
	io.WriteString(c2, "word\n")
	if s := readAll(t, c2); s != "got word\r\n" {
		t.Errorf("%q", s)
	}
	e.exit(term)
	list, err := e.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		if p.Key == key && (p.PID != started.PID || p.Exited == nil || p.Exited.Code != 7 || p.Exited.Unknown != "") {
			t.Errorf("%+v %+v", p, p.Exited)
		}
		if p.Key == term && (p.Exited == nil || p.Exited.Code != 3) {
			t.Errorf("%+v %+v", p, p.Exited)
		}
	}
	checkNumbers(t, readLog(t, target), n)
	checkNumbers(t, <-seen, n)
}

// TestKeeperDies: kill -9 of the keeper ends no process, and the next one
// learns the exit code.
func TestKeeperDies(t *testing.T) {
	e := newEngine(t)
	target := e.logTarget()
	key, quick := Key{Container: "c"}, Key{Container: "q"}
	const n = 1000
	started := e.start(&StartRequest{Key: key, Plan: argv("self:step", strconv.Itoa(n), target.Path), Log: target})
	in, theirs := socket(t)
	e.start(&StartRequest{
		Key: quick, Plan: sh("cat >/dev/null; exit 6"), Stdin: true, StdinOnce: true,
		Attach: []Attachment{{Conn: theirs, Stdin: true, Token: "lost"}},
	})
	theirs.Close()
	const deaths = 3
	for range deaths {
		time.Sleep(200 * time.Millisecond)
		pid := e.keeperPID()
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitGone(t, pid)
	}
	if s := readAll(t, in); s != "" {
		t.Errorf("%q", s)
	}
	if end := wait[AttachEnd](e, quick); end.Reason != EndError || end.Token != "lost" {
		t.Errorf("%+v", end)
	}
	// The input is open still, as a second client finds.
	in2, theirs2 := socket(t)
	if err := e.Attach(t.Context(), quick, Attachment{Conn: theirs2, Stdin: true}); err != nil {
		t.Fatal(err)
	}
	theirs2.Close()
	in2.CloseWrite()
	x := wait[Exit](e, quick)
	if pidfdTellsExit(t) {
		if x.Code != 6 || x.Unknown != "" {
			t.Errorf("%+v", x)
		}
	} else if x.Code != 255 || x.Unknown == "" {
		t.Errorf("%+v", x)
	}
	x = wait[Exit](e, key)
	if pidfdTellsExit(t) && x.Code != 7 {
		t.Errorf("%+v", x)
	}
	list, err := e.List(t.Context())
	if err != nil || len(list) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	for _, p := range list {
		if p.Key == key && p.PID != started.PID {
			t.Errorf("%+v", p)
		}
	}
	// What a keeper had read and not written is lost: at most one read of the
	// stream, which is a line here, for each that died, and nothing is there
	// twice or out of order.
	lines := strings.Split(strings.TrimSuffix(readLog(t, target), "\n"), "\n")
	next, gaps := 0, 0
	for _, l := range lines {
		i, err := strconv.Atoi(l)
		if err != nil || i < next {
			t.Fatalf("line %q after %d", l, next-1)
		}
		if i > next+1 {
			t.Errorf("%d is followed by %d: more than one read was lost", next-1, i)
		}
		if i > next {
			gaps++
		}
		next = i + 1
	}
	if gaps > deaths || next != n {
		t.Errorf("%d lines with %d gaps, the last is %d", len(lines), gaps, next-1)
	}
}

// pidfdTellsExit probes for PIDFD_INFO_EXIT.
func pidfdTellsExit(t *testing.T) bool {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	major, rest, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, _ := strconv.Atoi(major)
	b, _ := strconv.Atoi(minor)
	return a > 6 || a == 6 && b >= 15
}

// TestOrphansAreReaped: what is reparented to the keeper does not stay a zombie.
func TestOrphansAreReaped(t *testing.T) {
	e := newEngine(t)
	key, target := Key{Container: "c"}, e.logTarget()
	e.start(&StartRequest{Key: key, Plan: sh("(sleep 1 & echo $!) & wait; sleep 3"), Log: target})
	keeper := strconv.Itoa(e.keeperPID())
	var child int
	for range 200 {
		if child, _ = strconv.Atoi(strings.TrimSpace(readLog(t, target))); child != 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	// The one that started it may have a few instructions left before it ends.
	var parent string
	var err error
	for range 180 {
		b, e := os.ReadFile("/proc/" + strconv.Itoa(child) + "/stat")
		if e != nil {
			t.Fatal(e)
		}
		if parent = strings.Fields(string(b))[3]; parent == keeper {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if parent != keeper {
		t.Errorf("the parent is %s, not the keeper %s", parent, keeper)
	}
	for range 600 {
		if _, err = os.Stat("/proc/" + strconv.Itoa(child)); err != nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err == nil {
		t.Error("the orphan is still there")
	}
	wait[Exit](e, key)
}

// TestMemory measures the keeper program itself with idle processes.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("starts 200 processes")
	}
	e := newEngine(t)
	idle := rss(t, e.keeperPID())
	const n = 200
	for i := range n {
		e.start(&StartRequest{Key: Key{Container: "c" + strconv.Itoa(i)}, Plan: argv("/bin/sleep", "1000"), Log: logs.Target{
			Driver: logs.DriverJSONFile, Path: filepath.Join(e.cfg.Dir, "log"+strconv.Itoa(i)),
		}})
	}
	with := rss(t, e.keeperPID())
	t.Logf("%d KB idle, %d KB with %d processes: %d KB each", idle, with, n, (with-idle)/n)
	// The test's own program is larger than the keeper, so only the difference counts.
	if (with-idle)/n > 100 {
		t.Errorf("%d KB for each process", (with-idle)/n)
	}
}

func rss(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, s, _ := strings.Cut(string(b), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(s)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// BenchmarkStart is compared with BenchmarkFork: the difference is what the
// keeper adds.
func BenchmarkStart(b *testing.B) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		b.Fatal(err)
	}
	c, err := Connect(context.Background(), Config{Dir: filepath.Join(b.TempDir(), "k"), Keeper: self, Init: []byte("i"), CgroupProcs: []string{}})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	var starting []time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := c.Start(context.Background(), &StartRequest{Key: Key{Container: "c"}, Plan: argv("/bin/true")}); err != nil {
			b.Fatal(err)
		}
		starting = append(starting, time.Since(start))
		for {
			if _, ok := (<-c.Events()).(Exit); ok {
				break
			}
		}
	}
	slices.Sort(starting)
	b.ReportMetric(float64(starting[len(starting)/2].Microseconds()), "us-median")
}

// BenchmarkList is one round trip that does nothing.
func BenchmarkList(b *testing.B) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		b.Fatal(err)
	}
	c, err := Connect(context.Background(), Config{Dir: filepath.Join(b.TempDir(), "k"), Keeper: self, Init: []byte("i"), CgroupProcs: []string{}})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for b.Loop() {
		if _, err := c.List(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFork is what the test's stand-in for sandbox.Start takes by itself.
func BenchmarkFork(b *testing.B) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	var starting []time.Duration
	for b.Loop() {
		start := time.Now()
		p, err := hostStart(nil, argv("/bin/true"), sandbox.Stdio{In: null, Out: null, Err: null}, nil)
		if err != nil {
			b.Fatal(err)
		}
		starting = append(starting, time.Since(start))
		if _, err := unix.Wait4(p.PID, nil, 0, nil); err != nil {
			b.Fatal(err)
		}
		p.PIDFD.Close()
	}
	slices.Sort(starting)
	b.ReportMetric(float64(starting[len(starting)/2].Microseconds()), "us-median")
}
