package harness

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// marker is the environment variable by which a daemon's own processes are
// recognised.
const marker = "WHERRY_TEST_ENGINE"

// netState is what an engine may leave in a network namespace.
type netState map[string]bool

// footprint is where an engine leaves traces, and how they are told from
// others'.
type footprint struct {
	ID      string // unique among running engines; part of every name we choose
	Dir     string // holds data, exec, sock, pid, log
	kind    Kind
	netns   *os.File // nil in the host's
	shared  bool     // netns is another engine's, too
	baseNet netState // links and tables before the first start
}

func (e *footprint) path(name string) string { return filepath.Join(e.Dir, name) }

// DataRoot and ExecRoot are the engine's directories.
func (e *footprint) DataRoot() string { return e.path("data") }
func (e *footprint) ExecRoot() string { return e.path("exec") }

// Within calls f on a thread in the engine's network namespace: a socket that
// f opens, and a process that f starts, are there.
func (e *footprint) Within(f func() error) error { return inNetNS(e.netns, f) }

// NetNS is the engine's network namespace; nil in the host's.
func (e *footprint) NetNS() *os.File { return e.netns }

func (e *footprint) net() (netState, error) {
	s := netState{}
	err := inNetNS(e.netns, func() error {
		links, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, l := range links {
			s["link "+l.Name] = true
		}
		tables, err := nftTables()
		for _, t := range tables {
			s["nft table "+t] = true
		}
		return err
	})
	return s, err
}

// leaks names what a stopped engine left behind. ids are the containers it
// had. What goes away by itself behind an answer is given time: on a busy machine
// the kernel takes seconds to be done with a network namespace.
func (e *footprint) leaks(ids []string) []string {
	deadline := time.Now().Add(20 * time.Second)
	for _, p := range e.processes() {
		waitGone(p.pid, time.Until(deadline))
	}
	for {
		found := e.leaksNow(ids)
		if len(found) == 0 || time.Now().After(deadline) {
			return found
		}
		time.Sleep(50 * time.Millisecond) // nothing tells when the kernel is done with a cgroup
	}
}

func (e *footprint) leaksNow(ids []string) []string {
	var found []string
	for _, p := range e.processes() {
		found = append(found, "process "+p.String())
	}
	for _, c := range e.cgroups() {
		found = append(found, "cgroup "+c)
	}
	if e.kind == Docker {
		return found // its own habits (mounts, docker0, chains, files) are not ours to judge
	}
	for _, m := range mounts() {
		if strings.Contains(m, e.Dir) {
			found = append(found, m)
		}
	}
	after, err := e.net()
	if err != nil {
		found = append(found, "network state: "+err.Error())
	}
	for n := range after {
		// In a namespace of its own nothing outlives the namespace, but the
		// same engine in the host's would have left it.
		if !e.baseNet[n] {
			found = append(found, n)
		}
	}
	filepath.WalkDir(e.ExecRoot(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, "file in exec-root: "+strings.TrimPrefix(path, e.ExecRoot()))
		}
		return nil
	})
	filepath.WalkDir(e.DataRoot(), func(path string, d fs.DirEntry, err error) error {
		for _, id := range ids {
			if err == nil && strings.Contains(d.Name(), id) {
				found = append(found, "of a removed container in data-root: "+strings.TrimPrefix(path, e.DataRoot()))
				if d.IsDir() {
					return filepath.SkipDir
				}
			}
		}
		return nil
	})
	sort.Strings(found)
	return found
}

// sweep ends and removes what leaks found, so that a later test begins clean.
func (e *footprint) sweep() {
	for _, p := range e.processes() {
		unix.Kill(p.pid, unix.SIGKILL)
		waitGone(p.pid, 2*time.Second)
	}
	for i := 0; i < 3; i++ {
		for _, m := range mounts() {
			if f := strings.Fields(m); strings.HasPrefix(f[1], e.Dir) {
				unix.Unmount(f[1], unix.MNT_DETACH)
			}
		}
	}
	groups := e.cgroups()
	sort.Sort(sort.Reverse(sort.StringSlice(groups))) // children first
	for _, root := range cgroupRoots() {
		groups = append(groups, filepath.Join(root, e.ID))
	}
	for _, g := range groups {
		os.Remove(g)
	}
}

// process is one entry of /proc.
type process struct {
	pid  int
	exe  string // "" for another user's or a kernel thread
	comm string
	args string
}

func (p process) String() string {
	return fmt.Sprintf("%d %s (%s) %s", p.pid, p.comm, p.exe, p.args)
}

// processes are those of the engine: marked, in its cgroups, in its network
// namespace, or with its directory among their arguments.
func (e *footprint) processes() []process {
	var ns uint64
	if e.netns != nil && !e.shared {
		var st unix.Stat_t
		if unix.Fstat(int(e.netns.Fd()), &st) == nil {
			ns = st.Ino
		}
	}
	return scan(func(pid int, p process) bool {
		if pid == os.Getpid() {
			return false
		}
		dir := fmt.Sprintf("/proc/%d/", pid)
		if env, _ := os.ReadFile(dir + "environ"); bytes.Contains(env, []byte(marker+"="+e.ID+"\x00")) {
			return true
		}
		if groups, _ := os.ReadFile(dir + "cgroup"); bytes.Contains(groups, []byte("/"+e.ID+"/")) {
			return true
		}
		var st unix.Stat_t
		if ns != 0 && unix.Stat(dir+"ns/net", &st) == nil && st.Ino == ns {
			return true
		}
		return (strings.Contains(p.exe, "docker") || strings.Contains(p.exe, "containerd") || strings.Contains(p.exe, "wherry")) &&
			strings.Contains(p.args, e.Dir+"/") && strings.Contains(p.args, "exec")
	})
}

// scan lists the processes that want accepts; zombies are left to their parents.
func scan(want func(int, process) bool) []process {
	entries, _ := os.ReadDir("/proc")
	var list []process
	for _, d := range entries {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		dir := "/proc/" + d.Name() + "/"
		stat, err := os.ReadFile(dir + "stat")
		if i := bytes.LastIndexByte(stat, ')'); err != nil || i < 0 || i+2 >= len(stat) || stat[i+2] == 'Z' {
			continue
		}
		p := process{pid: pid}
		p.exe, _ = os.Readlink(dir + "exe")
		comm, _ := os.ReadFile(dir + "comm")
		p.comm = strings.TrimSpace(string(comm))
		args, _ := os.ReadFile(dir + "cmdline")
		p.args = string(bytes.ReplaceAll(bytes.TrimRight(args, "\x00"), []byte{0}, []byte{' '}))
		if want(pid, p) {
			list = append(list, p)
		}
	}
	return list
}

// waitGone returns when the process has ended or the time is over.
func waitGone(pid int, limit time.Duration) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	for end := time.Now().Add(limit); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, max(0, int(time.Until(end).Milliseconds())))
		if err != unix.EINTR {
			return n > 0
		}
	}
}

// mounts of our mount namespace, as "mount TARGET TYPE SOURCE OPTIONS".
func mounts() []string {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	var list []string
	for _, line := range strings.Split(string(b), "\n") {
		left, right, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(left), strings.Fields(right)
		if ok && len(f) > 4 && len(g) > 2 {
			list = append(list, strings.Join([]string{"mount", f[4], g[0], g[1], g[2]}, " "))
		}
	}
	return list
}

// cgroupRoots are the mount points of all hierarchies, v1 and v2.
func cgroupRoots() []string {
	var roots []string
	for _, m := range mounts() {
		if f := strings.Fields(m); f[2] == "cgroup" || f[2] == "cgroup2" {
			roots = append(roots, f[1])
		}
	}
	return roots
}

func (e *footprint) cgroups() []string {
	var list []string
	for _, root := range cgroupRoots() {
		top := filepath.Join(root, e.ID)
		filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			// The parent was named by us; only an engine that we started may
			// leave it, and it says so by leaving something in it.
			if err == nil && d.IsDir() && path != top {
				list = append(list, path)
			}
			return nil
		})
		if _, err := os.Stat(top); err == nil && len(list) == 0 {
			os.Remove(top)
		}
	}
	return list
}

// CgroupParent is the directory of the engine's cgroups under a hierarchy's
// mount point, such as "memory"; "" is cgroup v2.
func (e *footprint) CgroupParent(controller string) string {
	for _, root := range cgroupRoots() {
		if filepath.Base(root) == controller || controller == "" {
			return filepath.Join(root, e.ID)
		}
	}
	return ""
}

// Snapshot is the state of the whole machine that a run of the tests could
// change: one line per thing.
type Snapshot map[string]bool

// Take looks at the machine.
func Take() (Snapshot, error) {
	s := Snapshot{}
	for _, m := range mounts() {
		s[m] = true
	}
	for _, root := range cgroupRoots() {
		filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				s["cgroup "+path] = true
			}
			return nil
		})
	}
	state, err := (&footprint{}).net()
	if err != nil {
		return nil, err
	}
	for n := range state {
		s[n] = true
	}
	spaces := map[string]string{}
	for _, p := range scan(func(int, process) bool { return true }) {
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p.pid)); err == nil && spaces[ns] == "" {
			spaces[ns] = p.comm
		}
		if ours(p) {
			s["process "+p.String()] = true
		}
	}
	for ns := range spaces {
		s["network namespace "+ns] = true
	}
	return s, nil
}

// ours says whether a process is the engine's or a peer's that a test started.
func ours(p process) bool {
	name := strings.TrimSuffix(filepath.Base(p.exe), " (deleted)")
	return strings.HasPrefix(name, "wherry") || strings.HasPrefix(name, "memfd:wherry") ||
		strings.HasPrefix(name, "dockerd") || strings.HasPrefix(name, "containerd")
}

// New lists what is in s and was not in before.
func (s Snapshot) New(before Snapshot) []string {
	var list []string
	for k := range s {
		if !before[k] {
			list = append(list, k)
		}
	}
	sort.Strings(list)
	return list
}

// Save and LoadSnapshot keep a snapshot in a file, a line for each thing.
func (s Snapshot) Save(path string) error {
	return os.WriteFile(path, []byte(strings.Join(s.New(nil), "\n")+"\n"), 0o600)
}

func LoadSnapshot(path string) (Snapshot, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := Snapshot{}
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		s[sc.Text()] = true
	}
	return s, sc.Err()
}

// Processes describes the live processes of the engine: the daemon, what it
// started, and the containers'.
func (e *footprint) Processes() []string {
	var list []string
	for _, p := range e.processes() {
		list = append(list, p.String())
	}
	return list
}

// Memory sums what the engine's own processes hold, in bytes: the daemon, the
// keeper or shims, not the containers' programs.
func (e *footprint) Memory() (pss, rss int64, count int) {
	for _, p := range e.processes() {
		if !ours(p) {
			continue
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid))
		if err != nil {
			continue // it ended meanwhile
		}
		count++
		for _, line := range strings.Split(string(b), "\n") {
			var kb int64
			if _, err := fmt.Sscanf(line, "Pss: %d kB", &kb); err == nil {
				pss += kb << 10
			} else if _, err := fmt.Sscanf(line, "Rss: %d kB", &kb); err == nil {
				rss += kb << 10
			}
		}
	}
	return pss, rss, count
}
