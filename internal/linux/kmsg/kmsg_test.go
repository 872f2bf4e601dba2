package kmsg

import "testing"

func TestOOM(t *testing.T) {
	s := scanner{group: "/w/abc"}
	for _, line := range []string{
		"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/w/other,task_memcg=/w/other,task=sh,pid=7,uid=0",
		"Memory cgroup out of memory: Killed process 7 (sh) total-vm:9kB, anon-rss:9kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:48kB oom_score_adj:0",
		"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/w/abc,task_memcg=/w/abc,task=tail,pid=123,uid=0",
		"Memory cgroup out of memory: Killed process 123 (tail) total-vm:26908kB, anon-rss:25012kB, file-rss:12kB, shmem-rss:4kB, UID:0 pgtables:88kB oom_score_adj:0",
	} {
		s.line(line)
	}
	if want := (OOM{Process: "tail", PID: 123, RSS: 25028 << 10}); !s.ok || s.found != want {
		t.Errorf("%+v, want %+v", s.found, want)
	}
}
