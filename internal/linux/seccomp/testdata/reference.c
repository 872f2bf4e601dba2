/*
 * Compiles a filter with libseccomp, for comparison.
 *
 * reference names   reads names, prints "name x86_64 x86 x32 aarch64 arm" with
 *                   their numbers, -1 where there is none, "name ?" if unknown
 * reference filter  reads a filter, writes the BPF program to standard output:
 *   default ACTION
 *   arch TOKEN                       (all architectures, the native one too)
 *   rule ACTION NAME N [INDEX OP A B]...
 * ACTION, TOKEN, A and B are hexadecimal; OP is libseccomp's number.
 * Names that libseccomp does not know are skipped.
 */
#include <errno.h>
#include <inttypes.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void fail(const char *what, int rc)
{
	fprintf(stderr, "%s: %s\n", what, strerror(-rc));
	exit(1);
}

static int names(void)
{
	static const uint32_t arches[] = { SCMP_ARCH_X86_64, SCMP_ARCH_X86, SCMP_ARCH_X32, SCMP_ARCH_AARCH64, SCMP_ARCH_ARM };
	char name[128];

	while (scanf("%127s", name) == 1) {
		if (seccomp_syscall_resolve_name(name) == __NR_SCMP_ERROR) {
			printf("%s ?\n", name);
			continue;
		}
		printf("%s", name);
		for (int i = 0; i < 5; i++) {
			int nr = seccomp_syscall_resolve_name_rewrite(arches[i], name);
			printf(" %d", nr < 0 ? -1 : nr);
		}
		printf("\n");
	}
	return 0;
}

static int filter(void)
{
	scmp_filter_ctx ctx = NULL;
	char word[16], name[128];
	uint32_t action, token;
	int rc, first = 1;

	while (scanf("%15s", word) == 1) {
		if (!strcmp(word, "default")) {
			if (scanf("%" SCNx32, &action) != 1 || !(ctx = seccomp_init(action)))
				fail("default", -EINVAL);
		} else if (!strcmp(word, "arch")) {
			if (scanf("%" SCNx32, &token) != 1)
				fail("arch", -EINVAL);
			rc = seccomp_arch_add(ctx, token);
			if (rc < 0 && rc != -EEXIST)
				fail("arch", rc);
			if (first && token != seccomp_arch_native()) {
				rc = seccomp_arch_remove(ctx, SCMP_ARCH_NATIVE);
				if (rc < 0)
					fail("arch remove", rc);
			}
			first = 0;
		} else if (!strcmp(word, "rule")) {
			struct scmp_arg_cmp args[6];
			unsigned int n, op, index;
			int nr;

			if (scanf("%" SCNx32 " %127s %u", &action, name, &n) != 3 || n > 6)
				fail("rule", -EINVAL);
			for (unsigned int i = 0; i < n; i++) {
				if (scanf("%u %u %" SCNx64 " %" SCNx64, &index, &op, &args[i].datum_a, &args[i].datum_b) != 4)
					fail("argument", -EINVAL);
				args[i].arg = index;
				args[i].op = op;
			}
			nr = seccomp_syscall_resolve_name(name);
			if (nr == __NR_SCMP_ERROR)
				continue;
			rc = seccomp_rule_add_array(ctx, action, nr, n, args);
			if (rc < 0)
				fail(name, rc);
		} else {
			fail(word, -EINVAL);
		}
	}
	if (!ctx)
		fail("no default", -EINVAL);
	rc = seccomp_export_bpf(ctx, STDOUT_FILENO);
	if (rc < 0)
		fail("export", rc);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "names"))
		return names();
	if (argc == 2 && !strcmp(argv[1], "filter"))
		return filter();
	fprintf(stderr, "usage: reference names|filter\n");
	return 2;
}
