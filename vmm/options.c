/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define ID_MAX 64

enum option_type { FLAG, TEXT, NUMBER };

static const struct spec {
	const char *name;
	enum option_type type;
	size_t offset; /* bool, const char * or uint64_t in struct options */
	const char *value, *help;
} specs[] = {
#define AT(member) offsetof(struct options, member)
	{"api-sock", TEXT, AT(api_sock), "PATH",
	 "socket of the API [" OPTIONS_API_SOCK_DEFAULT "]"},
	{"no-api", FLAG, AT(no_api), NULL, "no API; needs --config-file"},
	{"config-file", TEXT, AT(config_file), "PATH", "JSON file to configure and start the VM"},
	{"id", TEXT, AT(id), "ID", "identifier of the microVM [" OPTIONS_ID_DEFAULT "]"},
	{"log-path", TEXT, AT(log_path), "PATH", "file or FIFO for the log [stdout]"},
	{"level", TEXT, AT(level), "LEVEL", "Off, Error, Warn, Info, Debug or Trace [Info]"},
	{"module", TEXT, AT(module), "PREFIX", "log only source files whose path starts so"},
	{"show-level", FLAG, AT(show_level), NULL, "show the level in log lines"},
	{"show-log-origin", FLAG, AT(show_log_origin), NULL, "show file and line in log lines"},
	{"metrics-path", TEXT, AT(metrics_path), "PATH", "file or FIFO for the metrics"},
	{"boot-timer", FLAG, AT(boot_timer), NULL, "log how long the guest took to boot"},
	{"http-api-max-payload-size", NUMBER, AT(max_payload), "BYTES",
	 "largest body of a request [51200]"},
	{"start-time-us", NUMBER, AT(start_time_us), "US", "start of the process, monotonic clock"},
	{"start-time-cpu-us", NUMBER, AT(start_time_cpu_us), "US", "the same on the CPU clock"},
	{"parent-cpu-time-us", NUMBER, AT(parent_cpu_time_us), "US", "CPU time of the jailer"},
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
		dprintf(fd, "  %-34s %s\n", left, specs[i].help);
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
	}
	return -EINVAL;
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

static int check(const struct options *o, struct err *e)
{
	enum log_level level;
	int r = check_id(o->id, e);

	if (r < 0)
		return r;
	if (o->level && log_level_parse(o->level, &level) < 0)
		return err_set(e, EINVAL,
			       "--level: '%.64s' is not Off, Error, Warn, Info, Debug or Trace",
			       o->level);
	if (o->no_api && !o->config_file)
		return err_set(e, EINVAL, "--no-api: needs --config-file");
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

static int explain(const char *arg, struct err *e)
{
	for (size_t i = 0; i < ARRAY_SIZE(specs); i++)
		if (is_option(arg, specs[i].name))
			return err_set(e, EINVAL, "--%s: %s", specs[i].name,
				       specs[i].type == FLAG ? "takes no value" : "needs a value");
	return err_set(e, EINVAL, "'%.64s': unknown option; see --help", arg);
}

static void fill_getopt(struct option opts[ARRAY_SIZE(specs) + 1])
{
	for (size_t i = 0; i < ARRAY_SIZE(specs); i++)
		opts[i] = (struct option){
			.name = specs[i].name,
			.has_arg = specs[i].type == FLAG ? no_argument : required_argument,
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
		.max_payload = OPTIONS_PAYLOAD_DEFAULT,
	};
	fill_getopt(opts);
	opterr = 0;
	optind = 0; /* glibc: begin anew */
	while (!o->version && !o->help) {
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
	if (o->version || o->help)
		return 0;
	if (optind < argc)
		return err_set(e, EINVAL, "'%.64s': unexpected argument; see --help", argv[optind]);
	return check(o, e);
}
