/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "vmm/base/help.h"

enum option_type { FLAG, TEXT, NUMBER, FD, MODE, OWNER, ALLOW, SHELL, REFUSED_FLAG };

static const struct spec {
	const char *name;
	enum option_type type;
	size_t offset; /* bool, const char *, uint64_t or int in struct options; unused by the others */
	const char *value, *help;
} specs[] = {
#define AT(member) offsetof(struct options, member)
	{"api-sock", TEXT, AT(api_sock), "PATH",
	 "socket of the API [" OPTIONS_API_SOCK_DEFAULT "]"},
	{"api-sock-mode", MODE, AT(api_sock_mode), "OCTAL", "mode of the socket's file [0600]"},
	{"api-sock-owner", OWNER, 0, "UID:GID", "owner of the socket's file; one may be left out"},
	{"api-allow", ALLOW, 0, "LIST",
	 "who may use the API, by credentials: uid=N and gid=N with commas [all that can connect]"},
	{"api-fd", FD, AT(api_fd), "FD", "an inherited listening socket [as LISTEN_FDS says]"},
	{"ready-fd", FD, AT(ready_fd), "FD", "gets a line feed when the API listens"},
	{"no-api", FLAG, AT(no_api), NULL, "no API; needs --config-file"},
	{"config-file", TEXT, AT(config_file), "PATH", "JSON file to configure and start the VM"},
	{"shell", SHELL, 0, "vcpus=N,mem_mib=N[,...]",
	 "a machine made ahead, for PUT /snapshot/load; also devices=N, track_dirty_pages, pit"},
	{"id", TEXT, AT(id), "ID", "identifier of the microVM [" OPTIONS_ID_DEFAULT "]"},
	{"log-path", TEXT, AT(log_path), "PATH", "file or FIFO for the log [stdout]"},
	{"level", TEXT, AT(level), "LEVEL", "Off, Error, Warn, Info, Debug or Trace [Info]"},
	{"module", TEXT, AT(module), "PREFIX", "log only source files whose path starts so"},
	{"show-level", FLAG, AT(show_level), NULL, "show the level in log lines"},
	{"show-log-origin", FLAG, AT(show_log_origin), NULL, "show file and line in log lines"},
	{"metrics-path", TEXT, AT(metrics_path), "PATH", "file or FIFO for the metrics"},
	{"boot-timer", FLAG, AT(boot_timer), NULL, "log how long the guest took to boot"},
	{"seccomp-filter", TEXT, AT(seccomp_filter), "PATH",
	 "filters in the JSON of Firecracker's seccompiler instead of the built-in ones"},
	{"no-seccomp", FLAG, AT(no_seccomp), NULL, "no filters: only for debugging"},
	{"http-api-max-payload-size", NUMBER, AT(max_payload), "BYTES",
	 "largest body of a request [51200]"},
	{"metadata", TEXT, AT(metadata), "PATH", "JSON file that the metadata service begins with"},
	{"mmds-size-limit", NUMBER, AT(mmds_limit), "BYTES",
	 "largest document of the metadata service [as --http-api-max-payload-size]"},
	{"jailed", FLAG, AT(jailed), NULL, "/ is a jail: follow no symbolic link (spore-jailer)"},
	{"start-time-us", NUMBER, AT(start_time_us), "US", "start of the process, monotonic clock"},
	{"start-time-cpu-us", NUMBER, AT(start_time_cpu_us), "US", "the same on the CPU clock"},
	{"parent-cpu-time-us", NUMBER, AT(parent_cpu_time_us), "US", "CPU time of the jailer"},
	/* Firecracker's; `help` says why not. */
	{"enable-pci", REFUSED_FLAG, 0, NULL, "not here: all devices are on virtio-mmio"},
	{"snapshot-version", FLAG, AT(snapshot_version), NULL,
	 "print the version of the snapshots that are written"},
	{"describe-snapshot", TEXT, AT(describe_snapshot), "PATH", "print what a state file holds"},
	{"json", FLAG, AT(json), NULL, "with --describe-snapshot: as JSON"},
	{"version", FLAG, AT(version), NULL, "print the version"},
	{"help", FLAG, AT(help), NULL, "print this"},
#undef AT
};

_Static_assert(OPTIONS_PAYLOAD_DEFAULT == 51200, "the help text says so");

void options_print_help(int fd)
{
	dprintf(fd, "usage: spore [options]\n\noptions:\n");
	for (size_t i = 0; i < ARRAY_SIZE(specs); i++) {
		char left[48];

		snprintf(left, sizeof(left), "--%s%s%s", specs[i].name, specs[i].value ? " " : "",
			 specs[i].value ? specs[i].value : "");
		help_print(fd, left, 34, specs[i].help);
	}
}

static int parse_number(const struct spec *s, const char *text, uint64_t *out, struct err *e)
{
	char *end;

	errno = 0;
	*out = strtoull(text, &end, 10);
	if (!isdigit((unsigned char)text[0]) || *end || errno)
		return err_set(e, EINVAL, "--%s: '%.64s' is not a number", s->name, text);
	return 0;
}

static int parse_fd(const struct spec *s, const char *text, int *out, struct err *e)
{
	uint64_t n;
	int r = parse_number(s, text, &n, e);

	if (r == 0 && n > 1 << 20)
		return err_set(e, EINVAL, "--%s: %.64s is no file descriptor", s->name, text);
	*out = r == 0 ? (int)n : -1;
	return r;
}

static int parse_mode(const struct spec *s, const char *text, unsigned *out, struct err *e)
{
	char *end;
	unsigned long n = strtoul(text, &end, 8);

	if (!isdigit((unsigned char)text[0]) || *end || n < 1 || n > 0777)
		return err_set(e, EINVAL, "--%s: '%.64s' is not an octal mode within 1..777",
			       s->name, text);
	*out = (unsigned)n;
	return 0;
}

/* A user or group id up to `stop`; -1, which means "none" to the kernel, is not one. */
static bool parse_id(const char **text, const char *stops, uint32_t *out)
{
	char *end;
	unsigned long long n;

	if (!isdigit((unsigned char)**text))
		return false;
	n = strtoull(*text, &end, 10);
	if (n >= UINT32_MAX || (*end && !strchr(stops, *end)))
		return false;
	*out = (uint32_t)n;
	*text = end;
	return true;
}

static int parse_owner(struct options *o, const struct spec *s, const char *text, struct err *e)
{
	const char *p = text;

	o->has_owner = true;
	o->owner_uid = o->owner_gid = UINT32_MAX;
	if ((*p == ':' || parse_id(&p, ":", &o->owner_uid)) &&
	    (*p == '\0' ||
	     (*p == ':' && (p[1] == '\0' || (p++, parse_id(&p, "", &o->owner_gid))))) &&
	    (o->owner_uid != UINT32_MAX || o->owner_gid != UINT32_MAX))
		return 0;
	return err_set(e, EINVAL, "--%s: '%.64s' is not UID:GID, UID or :GID", s->name, text);
}

static int parse_allow(struct options *o, const struct spec *s, const char *text, struct err *e)
{
	const char *p = text;

	do {
		struct options_peer *peer = &o->allow[o->allow_count];

		if (o->allow_count++ == OPTIONS_ALLOW_MAX)
			return err_set(e, EINVAL, "--%s: at most %d are possible", s->name,
				       OPTIONS_ALLOW_MAX);
		peer->is_group = strncmp(p, "gid=", 4) == 0;
		if (!peer->is_group && strncmp(p, "uid=", 4) != 0)
			break;
		p += 4;
		if (!parse_id(&p, ",", &peer->id))
			break;
		if (*p == '\0')
			return 0;
	} while (*p++ == ',');
	return err_set(e, EINVAL, "--%s: '%.64s' is not like uid=1000,gid=100", s->name, text);
}

static int store(struct options *o, const struct spec *s, const char *text, struct err *e)
{
	void *at = (char *)o + s->offset;

	switch (s->type) {
	case FLAG:
		*(bool *)at = true;
		return 0;
	case TEXT:
		*(const char **)at = text;
		return 0;
	case NUMBER:
		return parse_number(s, text, at, e);
	case FD:
		return parse_fd(s, text, at, e);
	case MODE:
		return parse_mode(s, text, at, e);
	case OWNER:
		return parse_owner(o, s, text, e);
	case ALLOW:
		return parse_allow(o, s, text, e);
	case SHELL:
		return shell_parse(&o->shell, text, e) < 0 ? err_wrap(e, "--%s", s->name) : 0;
	case REFUSED_FLAG:
		return err_set(e, EINVAL, "--%s: %s", s->name, s->help);
	}
	return -EINVAL;
}

static int check(const struct options *o, struct err *e)
{
	enum log_level level;

	if (vm_check_id(o->id, e) < 0)
		return err_wrap(e, "--id");
	if (o->level && log_level_parse(o->level, &level) < 0)
		return err_set(e, EINVAL,
			       "--level: '%.64s' is not Off, Error, Warn, Info, Debug or Trace",
			       o->level);
	if (o->no_api && !o->config_file)
		return err_set(e, EINVAL, "--no-api: needs --config-file");
	if (o->shell.vcpus && o->config_file)
		return err_set(e, EINVAL, "--shell: excludes --config-file");
	if (o->json && !o->describe_snapshot)
		return err_set(e, EINVAL, "--json: needs --describe-snapshot");
	if (o->no_api && o->api_fd >= 0)
		return err_set(e, EINVAL, "--no-api: excludes --api-fd");
	if (o->api_fd >= 0 && (o->api_sock_mode || o->has_owner))
		return err_set(
			e, EINVAL,
			"--api-fd: its file has a mode and an owner already; --api-sock-mode "
			"and --api-sock-owner are for --api-sock");
	if (o->no_seccomp && o->seccomp_filter)
		return err_set(e, EINVAL, "--no-seccomp: excludes --seccomp-filter");
	return 0;
}

/*
 * Whether `arg` is this option, whole. getopt_long() takes abbreviations too, but a script that
 * uses one would break when a longer name is added.
 */
static bool is_option(const char *arg, const char *name)
{
	size_t len = strlen(name);

	return strncmp(arg, "--", 2) == 0 && strncmp(arg + 2, name, len) == 0 &&
	       (arg[2 + len] == '\0' || arg[2 + len] == '=');
}

static bool takes_no_value(const struct spec *s)
{
	return s->type == FLAG || s->type == REFUSED_FLAG;
}

static int explain(const char *arg, struct err *e)
{
	for (size_t i = 0; i < ARRAY_SIZE(specs); i++)
		if (is_option(arg, specs[i].name))
			return err_set(e, EINVAL, "--%s: %s", specs[i].name,
				       takes_no_value(&specs[i]) ? "takes no value"
								 : "needs a value");
	return err_set(e, EINVAL, "'%.64s': unknown option; see --help", arg);
}

static void fill_getopt(struct option opts[ARRAY_SIZE(specs) + 1])
{
	for (size_t i = 0; i < ARRAY_SIZE(specs); i++)
		opts[i] = (struct option){
			.name = specs[i].name,
			.has_arg = takes_no_value(&specs[i]) ? no_argument : required_argument,
		};
	opts[ARRAY_SIZE(specs)] = (struct option){0};
}

int options_parse(struct options *o, int argc, char *argv[], struct err *e)
{
	struct option opts[ARRAY_SIZE(specs) + 1];
	bool seen[ARRAY_SIZE(specs)] = {0};

	*o = (struct options){
		.api_sock = OPTIONS_API_SOCK_DEFAULT,
		.id = OPTIONS_ID_DEFAULT,
		.api_fd = -1,
		.ready_fd = -1,
		.max_payload = OPTIONS_PAYLOAD_DEFAULT,
	};
	fill_getopt(opts);
	opterr = 0;
	optind = 0; /* glibc: begin anew */
	while (!options_only_print(o) || o->describe_snapshot) {
		const char *arg = argv[optind ? optind : 1];
		int index = -1;
		/* '+': in order, so that `arg` is what is being looked at. */
		int c = getopt_long(argc, argv, "+:", opts, &index);

		if (c == -1)
			break;
		if (c != 0 || !is_option(arg, specs[index].name))
			return explain(arg, e);
		if (seen[index])
			return err_set(e, EINVAL, "--%s: given twice", specs[index].name);
		seen[index] = true;
		if (store(o, &specs[index], optarg, e) < 0)
			return -EINVAL;
	}
	if (options_only_print(o) && !o->describe_snapshot)
		return 0;
	if (optind < argc)
		return err_set(e, EINVAL, "'%.64s': unexpected argument; see --help", argv[optind]);
	if (!o->mmds_limit)
		o->mmds_limit = o->max_payload;
	return check(o, e);
}
