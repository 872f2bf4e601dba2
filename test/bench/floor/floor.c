// What no engine can avoid for one container and nothing else: clone into new
// namespaces, mount an overlay, proc and a tmpfs for /dev, change the root, exec,
// wait, and take it apart. The others' times are divided by this one's.
//
//	floor LOWER net|nonet PROGRAM ARG...
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(int bad, const char *what) {
	if (bad) {
		fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
		exit(125);
	}
}

static char upper[512], work[512], root[512], options[2048];
static char **command;

static int child(void *unused) {
	(void)unused;
	must(mount("", "/", "", MS_REC | MS_PRIVATE, NULL), "private");
	must(mount("overlay", root, "overlay", 0, options), "overlay");
	must(chdir(root), "chdir");
	mkdir("proc", 0755);
	mkdir("dev", 0755);
	must(mount("proc", "proc", "proc", 0, NULL), "proc");
	must(mount("tmpfs", "dev", "tmpfs", 0, NULL), "dev");
	must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	must(umount2(".", MNT_DETACH), "detach");
	must(chdir("/"), "chdir");
	execv(command[0], command);
	must(1, "exec");
	return 0;
}

int main(int argc, char **argv) {
	if (argc < 4) {
		fprintf(stderr, "usage: floor LOWER net|nonet PROGRAM ARG...\n");
		return 2;
	}
	char dir[400];
	snprintf(dir, sizeof dir, "%s.XXXXXX", argv[1]);
	must(mkdtemp(dir) == NULL, "mkdtemp");
	snprintf(upper, sizeof upper, "%s/upper", dir);
	snprintf(work, sizeof work, "%s/work", dir);
	snprintf(root, sizeof root, "%s/root", dir);
	must(mkdir(upper, 0755) || mkdir(work, 0755) || mkdir(root, 0755), "mkdir");
	snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s", argv[1], upper, work);
	command = argv + 3;

	static char stack[65536] __attribute__((aligned(16)));
	int flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD;
	if (strcmp(argv[2], "net") == 0)
		flags |= CLONE_NEWNET;
	pid_t pid = clone(child, stack + sizeof stack, flags, NULL);
	must(pid < 0, "clone");
	int status;
	must(waitpid(pid, &status, 0) < 0, "wait");

	char sub[600];
	snprintf(sub, sizeof sub, "%s/proc", upper);
	rmdir(sub);
	snprintf(sub, sizeof sub, "%s/dev", upper);
	rmdir(sub);
	snprintf(sub, sizeof sub, "%s/work", work);
	rmdir(sub);
	must(rmdir(upper) || rmdir(work) || rmdir(root) || rmdir(dir), "remove");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
