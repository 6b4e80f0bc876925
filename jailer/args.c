/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/args.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmm/base/help.h"

#define ID_MAX 64

enum kind { FLAG, TEXT, NUMBER, LIST };

static const struct spec {
	const char *name;
	enum kind kind;
	size_t offset;	     /* in struct args */
	size_t count_offset; /* LIST: how many there are */
	bool required;
	const char *value, *help;
} specs[] = {
#define AT(member) offsetof(struct args, member)
	{"id", TEXT, AT(id), 0, true, "ID", "identifier of the microVM"},
	{"exec-file", TEXT, AT(exec_file), 0, true, "PATH", "monitor to run, linked statically"},
	{"uid", NUMBER, AT(uid), 0, true, "N", "user that the monitor runs as"},
	{"gid", NUMBER, AT(gid), 0, true, "N", "group that the monitor runs as"},
	{"chroot-base-dir", TEXT, AT(chroot_base), 0, false, "PATH",
	 "where jails are [/srv/jailer]"},
	{"netns", TEXT, AT(netns), 0, false, "PATH", "network namespace to join"},
	{"daemonize", FLAG, AT(daemonize), 0, false, NULL,
	 "new session, /dev/null as standard files"},
	{"new-pid-ns", FLAG, AT(new_pid_ns), 0, false, NULL,
	 "run the monitor in a new PID namespace"},
	{"cgroup-version", NUMBER, AT(cgroup_version), 0, false, "1|2", "cgroup hierarchy [1]"},
	{"cgroup", LIST, AT(cgroup), AT(cgroups), false, "FILE=VALUE",
	 "write VALUE to FILE of the cgroup"},
	{"parent-cgroup", TEXT, AT(parent_cgroup), 0, false, "PATH",
	 "where the cgroup is made [name of the monitor]"},
	{"resource-limit", LIST, AT(limit), AT(limits), false, "fsize=N|no-file=N",
	 "limit of the monitor [no-file=2048]"},
	{"user-ns", FLAG, AT(user_ns), 0, false, NULL, "(+) run without root, in a user namespace"},
	{"new-net-ns", FLAG, AT(new_net_ns), 0, false, NULL, "(+) an empty network namespace"},
	{"tmpfs-root", FLAG, AT(tmpfs_root), 0, false, NULL,
	 "(+) a read-only root in memory; only /run is the jail directory's"},
	{"bind", LIST, AT(bind), AT(binds), false, "HOST:JAIL[:rw]",
	 "(+) show a host file or directory in the jail"},
	{"keep-fd", LIST, AT(keep), AT(keeps), false, "FD",
	 "(+) the monitor inherits this descriptor, for its --api-fd or /dev/fd/FD"},
	{"pidfd-socket", NUMBER, AT(pidfd_socket), 0, false, "FD",
	 "(+) send a pidfd of the monitor to this Unix socket"},
	{"no-landlock", FLAG, AT(no_landlock), 0, false, NULL, "(+) no Landlock rules"},
	{"cleanup", FLAG, AT(cleanup), 0, false, NULL,
	 "(+) remove the directory and cgroups of a jail that is over"},
	{"version", FLAG, AT(version), 0, false, NULL, "print the version"},
	{"help", FLAG, AT(help), 0, false, NULL, "print this"},
#undef AT
};

void args_print_help(int fd)
{
	dprintf(fd, "usage: spore-jailer [options] [-- options of the monitor]\n\noptions:\n");
	for (size_t i = 0; i < ARRAY_SIZE(specs); i++) {
		char left[64];

		snprintf(left, sizeof(left), "--%s%s%s", specs[i].name, specs[i].value ? " " : "",
			 specs[i].value ? specs[i].value : "");
		help_print(fd, left, 36, specs[i].help);
	}
}

static int parse_number(const char *name, const char *text, uint64_t *out, struct err *e)
{
	char *end;

	errno = 0;
	*out = strtoull(text, &end, 10);
	if (!isdigit((unsigned char)text[0]) || *end || errno)
		return err_set(e, EINVAL, "--%s: '%.64s' is not a number", name, text);
	return 0;
}

static int store(struct args *a, const struct spec *s, const char *text, struct err *e)
{
	char *at = (char *)a + s->offset;
	size_t *count = (size_t *)(void *)((char *)a + s->count_offset);

	switch (s->kind) {
	case FLAG:
		*(bool *)at = true;
		return 0;
	case TEXT:
		*(const char **)(void *)at = text;
		return 0;
	case NUMBER:
		return parse_number(s->name, text, (uint64_t *)(void *)at, e);
	case LIST:
		if (*count == ARGS_REPEAT_MAX)
			return err_set(e, E2BIG, "--%s: more than %d", s->name, ARGS_REPEAT_MAX);
		((const char **)(void *)at)[(*count)++] = text;
		return 0;
	}
	return -EINVAL;
}

/* Which option the word is; *value becomes what is behind '=', or NULL. */
static int find(const char *word, const char **value)
{
	size_t len = strcspn(word, "=");

	*value = word[len] ? word + len + 1 : NULL;
	if (strncmp(word, "--", 2) != 0)
		return -1;
	for (size_t i = 0; i < ARRAY_SIZE(specs); i++)
		if (len - 2 == strlen(specs[i].name) &&
		    strncmp(word + 2, specs[i].name, len - 2) == 0)
			return (int)i;
	return -1;
}

static int parse_words(struct args *a, char *argv[], bool *seen, struct err *e)
{
	for (char **p = argv + 1; *p && !a->version && !a->help; p++) {
		const char *word = *p, *value;
		int i;

		if (strcmp(word, "--") == 0) {
			a->rest = p + 1;
			return 0;
		}
		i = find(word, &value);
		if (i < 0)
			return err_set(e, EINVAL, "'%.64s': unknown option; see --help", word);
		if (seen[i] && specs[i].kind != LIST)
			return err_set(e, EINVAL, "--%s: given twice", specs[i].name);
		seen[i] = true;
		if (specs[i].kind == FLAG && value)
			return err_set(e, EINVAL, "--%s: takes no value", specs[i].name);
		if (specs[i].kind != FLAG && !value) {
			if (!p[1])
				return err_set(e, EINVAL, "--%s: needs a value", specs[i].name);
			value = *++p;
		}
		if (store(a, &specs[i], value, e) < 0)
			return -EINVAL;
	}
	return 0;
}

static int check_id(const char *id, struct err *e)
{
	size_t len = strlen(id);

	if (len < 1 || len > ID_MAX)
		return err_set(e, EINVAL, "--id: %zu characters, need 1..%d", len, ID_MAX);
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)id[i]) && id[i] != '-')
			return err_set(e, EINVAL, "--id: only letters, digits and '-' are allowed");
	return 0;
}

static int parse_limits(struct args *a, struct err *e)
{
	for (size_t i = 0; i < a->limits; i++) {
		const char *text = a->limit[i];
		int r;

		if (strncmp(text, "fsize=", 6) == 0)
			r = parse_number("resource-limit", text + 6, &a->fsize, e);
		else if (strncmp(text, "no-file=", 8) == 0)
			r = parse_number("resource-limit", text + 8, &a->nofile, e);
		else
			r = err_set(e, EINVAL,
				    "--resource-limit: '%.64s' is neither fsize=N nor no-file=N",
				    text);
		if (r < 0)
			return r;
	}
	return 0;
}

static int parse_keeps(struct args *a, struct err *e)
{
	for (size_t i = 0; i < a->keeps; i++) {
		if (parse_number("keep-fd", a->keep[i], &a->keep_fd[i], e) < 0)
			return -EINVAL;
		if (a->keep_fd[i] <= STDERR_FILENO || a->keep_fd[i] > INT32_MAX)
			return err_set(e, EINVAL, "--keep-fd: '%.64s' is no descriptor above 2",
				       a->keep[i]);
		if (a->keep_fd[i] == a->pidfd_socket)
			return err_set(e, EINVAL, "--keep-fd: excludes the same --pidfd-socket");
	}
	return 0;
}

/* A relative path whose components are all names. */
static bool is_plain_path(const char *path)
{
	while (*path) {
		size_t len = strcspn(path, "/");

		if (len == 0 || (len == 1 && path[0] == '.') ||
		    (len == 2 && strncmp(path, "..", 2) == 0))
			return false;
		path += len;
		if (*path == '/' && *++path == '\0')
			return false;
	}
	return true;
}

static int check_cgroups(const struct args *a, struct err *e)
{
	if (a->cgroup_version != 1 && a->cgroup_version != 2)
		return err_set(e, EINVAL, "--cgroup-version: neither 1 nor 2");
	if (a->parent_cgroup && (!a->parent_cgroup[0] || !is_plain_path(a->parent_cgroup)))
		return err_set(e, EINVAL,
			       "--parent-cgroup: '%.64s' is no relative path without '.' and '..'",
			       a->parent_cgroup);
	for (size_t i = 0; i < a->cgroups; i++) {
		const char *file = a->cgroup[i], *dot = strchr(file, '.'), *eq = strchr(file, '=');

		if (!eq || !dot || dot == file || dot > eq || !eq[1] ||
		    memchr(file, '/', (size_t)(eq - file)))
			return err_set(e, EINVAL, "--cgroup: '%.64s' is not CONTROLLER.FILE=VALUE",
				       file);
	}
	return 0;
}

static int check(struct args *a, const bool *seen, struct err *e)
{
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(specs); i++) {
		bool spared = a->cleanup && specs[i].kind == NUMBER;

		if (specs[i].required && !seen[i] && !spared)
			return err_set(e, EINVAL, "--%s: missing", specs[i].name);
	}
	r = check_id(a->id, e);
	/* (uid_t)-1 means "no change" to the kernel. */
	if (r == 0 && (a->uid >= UINT32_MAX || a->gid >= UINT32_MAX))
		r = err_set(e, EINVAL, "--uid, --gid: not below 4294967295");
	if (r == 0 && a->netns && a->new_net_ns)
		r = err_set(e, EINVAL, "--netns: excludes --new-net-ns");
	if (r == 0 && a->pidfd_socket > INT32_MAX)
		r = err_set(e, EINVAL, "--pidfd-socket: no file descriptor");
	if (r == 0)
		r = parse_limits(a, e);
	if (r == 0)
		r = parse_keeps(a, e);
	return r == 0 ? check_cgroups(a, e) : r;
}

int args_parse(struct args *a, int argc, char *argv[], struct err *e)
{
	bool seen[ARRAY_SIZE(specs)] = {0};
	int r;

	*a = (struct args){
		.chroot_base = ARGS_BASE_DEFAULT,
		.cgroup_version = 1,
		.fsize = UINT64_MAX,
		.nofile = ARGS_NOFILE_DEFAULT,
		.rest = argv + argc,
	};
	r = parse_words(a, argv, seen, e);
	if (r < 0 || a->version || a->help)
		return r;
	return check(a, seen, e);
}
