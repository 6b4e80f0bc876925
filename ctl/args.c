/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "ctl/table.h"
#include "vmm/base/help.h"

#define OPTIONS_MAX 64

const struct ctl_option ctl_common_options[] = {
	{"state-dir", 0, CTL_TEXT, offsetof(struct ctl_common, state_dir), "DIR",
	 "where the microVMs are [$SPORE_STATE, $XDG_RUNTIME_DIR/spore, /run/spore]"},
	{"json", 0, CTL_FLAG, offsetof(struct ctl_common, json), NULL, "print for programs"},
	{"color", 0, CTL_TEXT, offsetof(struct ctl_common, color), "WHEN",
	 "auto, always or never [auto]"},
	{"help", 'h', CTL_FLAG, offsetof(struct ctl_common, help), NULL, "print this"},
	{0},
};

/* --- what all verbs have --- */

static const char *default_state_dir(void)
{
	static char path[256];
	const char *state = getenv("SPORE_STATE"), *run = getenv("XDG_RUNTIME_DIR");

	if (state && *state)
		return state;
	if (!run || !*run)
		return "/run/spore";
	snprintf(path, sizeof(path), "%s/spore", run);
	return path;
}

void ctl_apply_common(struct ctl *c, const struct ctl_common *common)
{
	const char *none = getenv("NO_COLOR"); /* no-color.org */
	const char *term = getenv("TERM");

	c->terminal = isatty(STDOUT_FILENO);
	if (common->json)
		c->json = true;
	if (common->state_dir)
		c->state_dir = common->state_dir;
	if (!c->state_dir)
		c->state_dir = default_state_dir();
	if (common->color && strcmp(common->color, "auto") != 0)
		c->color = strcmp(common->color, "always") == 0;
	else
		c->color = c->terminal && !(none && *none) && !(term && strcmp(term, "dumb") == 0);
}

/* --- values --- */

bool ctl_parse_size(const char *text, uint64_t *bytes)
{
	static const char units[] = "KMGT";
	const char *unit;
	char *end;
	unsigned shift = 20;

	errno = 0;
	*bytes = strtoull(text, &end, 10);
	if (!isdigit((unsigned char)text[0]) || errno || *bytes == 0)
		return false;
	if (*end) {
		unit = strchr(units, toupper((unsigned char)*end));
		if (!unit || (end[1] && strcmp(end + 1, "iB") != 0 && strcmp(end + 1, "B") != 0))
			return false;
		shift = 10 * (unsigned)(unit - units + 1);
	}
	if (*bytes > UINT64_MAX >> shift)
		return false;
	*bytes <<= shift;
	return true;
}

static bool parse_number(const char *text, uint64_t *out)
{
	char *end;

	errno = 0;
	*out = strtoull(text, &end, 10);
	return isdigit((unsigned char)text[0]) && !*end && !errno;
}

static int store(const struct ctl_option *o, const char *text, void *out, struct err *e)
{
	void *at = (char *)out + o->offset;
	struct ctl_list *list = at;

	switch (o->type) {
	case CTL_FLAG:
		*(bool *)at = true;
		return 0;
	case CTL_TEXT:
		*(const char **)at = text;
		return 0;
	case CTL_NUMBER:
		if (parse_number(text, at))
			return 0;
		return err_set(e, EINVAL, "--%s: '%.64s' is not a number", o->name, text);
	case CTL_SIZE:
		if (ctl_parse_size(text, at))
			return 0;
		return err_set(e, EINVAL, "--%s: '%.64s' is not a size like 512M or 2G", o->name,
			       text);
	case CTL_LIST:
		if (list->count == CTL_LIST_MAX)
			return err_set(e, EINVAL, "--%s: at most %d are possible", o->name,
				       CTL_LIST_MAX);
		list->item[list->count++] = text;
		return 0;
	}
	return -EINVAL;
}

/* --- what was meant --- */

/* Levenshtein's distance; names are short. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[64], len = (unsigned)strlen(b);

	if (len >= ARRAY_SIZE(row))
		return len;
	for (unsigned i = 0; i <= len; i++)
		row[i] = i;
	for (; *a; a++) {
		unsigned corner = row[0]++;

		for (unsigned i = 1; i <= len; i++) {
			unsigned up = row[i], best = corner + (*a != b[i - 1]);

			best = MIN(best, up + 1);
			row[i] = MIN(best, row[i - 1] + 1);
			corner = up;
		}
	}
	return row[len];
}

const char *ctl_nearest(const char *text, const char *(*name)(void *arg, unsigned i), void *arg)
{
	const char *best = NULL, *n;
	unsigned least = 3; /* two slips, or one in a word of three letters */

	for (unsigned i = 0; (n = name(arg, i)); i++) {
		unsigned d = distance(text, n);

		bool alike = d < 2 || n[0] == text[0] || strlen(n) > 4;

		if (alike && d < least && d < strlen(n)) {
			least = d;
			best = n;
		}
	}
	return best;
}

/* --- a command line --- */

struct parser {
	struct ctl *c;
	const struct ctl_usage *usage;
	const struct ctl_option *option[OPTIONS_MAX]; /* the verb's, then those of all */
	unsigned own, count;
	struct option longs[OPTIONS_MAX + 1];
	char letters[2 * OPTIONS_MAX + 4];
};

static void add_options(struct parser *p, const struct ctl_option *o)
{
	for (; o && o->name && p->count < OPTIONS_MAX; o++) {
		p->longs[p->count] = (struct option){
			.name = o->name,
			.has_arg = o->type == CTL_FLAG ? no_argument : required_argument,
		};
		p->option[p->count++] = o;
		if (o->letter) {
			char spec[3] = {o->letter, o->type == CTL_FLAG ? '\0' : ':'};

			strcat(p->letters, spec);
		}
	}
}

static const char *option_name(void *arg, unsigned i)
{
	const struct parser *p = arg;

	return i < p->count ? p->option[i]->name : NULL;
}

void ctl_print_options(const struct ctl_option *o)
{
	fflush(stdout);
	for (; o && o->name; o++) {
		char left[64], letter[5] = "    ";

		if (o->letter)
			snprintf(letter, sizeof(letter), "-%c, ", o->letter);
		snprintf(left, sizeof(left), "%s--%s%s%s", letter, o->name, o->value ? " " : "",
			 o->value ? o->value : "");
		help_print(STDOUT_FILENO, left, 28, o->help);
	}
}

static void print_help(const struct parser *p)
{
	const struct ctl_usage *u = p->usage;

	printf("usage: sporectl %s [OPTION...]%s%s\n\noptions:\n", p->c->verb,
	       u->arguments[0] ? " " : "", u->arguments);
	ctl_print_options(u->options);
	ctl_print_options(ctl_common_options);
	printf("\nexamples:\n");
	for (const char *line = u->examples; *line;) {
		size_t len = strcspn(line, "\n");

		printf("  %.*s\n", (int)len, line);
		line += len + (line[len] == '\n');
	}
}

/* Why getopt_long() did not like what it looked at. */
static int explain(struct parser *p, int answer, const char *arg, struct err *e)
{
	char name[40];
	const char *near;

	if (answer == ':')
		return err_set(e, EINVAL, "'%.64s' needs a value", arg);
	if (strncmp(arg, "--", 2) != 0)
		return err_set(e, EINVAL, "'-%c': no such option", optopt ? optopt : '?');
	snprintf(name, sizeof(name), "%.*s", (int)strcspn(arg + 2, "="), arg + 2);
	for (unsigned i = 0; i < p->count; i++)
		if (strcmp(p->option[i]->name, name) == 0)
			return err_set(e, EINVAL, "'--%s' takes no value", name);
	near = ctl_nearest(name, option_name, p);
	if (near)
		ctl_hint(p->c, "sporectl %s --%s", p->c->verb, near);
	return err_set(e, EINVAL, "'%.64s': no such option", arg);
}

static const struct ctl_option *find_option(const struct parser *p, int answer, int index)
{
	if (answer == 0)
		return p->option[index];
	for (unsigned i = 0; i < p->count; i++)
		if (p->option[i]->letter == answer)
			return p->option[i];
	return NULL;
}

static int read_options(struct parser *p, int argc, char **argv, void *out,
			struct ctl_common *common, struct err *e)
{
	optind = 0;
	opterr = 0;
	for (;;) {
		const struct ctl_option *o;
		int index = -1, at = optind ? optind : 1;
		int answer = getopt_long(argc, argv, p->letters, p->longs, &index);
		bool own = false;

		if (answer == -1)
			return 0;
		if (answer == '?' || answer == ':')
			return explain(p, answer, argv[optind - 1] ? argv[optind - 1] : argv[at],
				       e);
		o = find_option(p, answer, index);
		for (unsigned i = 0; i < p->own; i++)
			own = own || p->option[i] == o;
		if (!o || store(o, optarg, own ? out : common, e) < 0)
			return -EINVAL;
	}
}

static int check_count(const struct ctl_usage *u, int argc, char **argv, struct err *e)
{
	if (argc < u->min)
		return err_set(e, EINVAL, "needs %s", u->arguments);
	if (argc > u->max)
		return err_set(e, EINVAL, "'%.64s': unexpected argument", argv[u->max]);
	return 0;
}

static int check_color(const struct ctl_common *common, struct err *e)
{
	const char *w = common->color;

	if (!w || strcmp(w, "auto") == 0 || strcmp(w, "always") == 0 || strcmp(w, "never") == 0)
		return 0;
	return err_set(e, EINVAL, "--color: '%.64s' is not auto, always or never", w);
}

bool ctl_parse(struct ctl *c, const struct ctl_usage *u, int *argc, char ***argv, void *out)
{
	struct parser p = {.c = c, .usage = u};
	struct ctl_common common = {0};
	struct err e;
	int r;

	strcpy(p.letters, u->no_more_options ? "+:" : ":");
	add_options(&p, u->options);
	p.own = p.count;
	add_options(&p, ctl_common_options);
	r = read_options(&p, *argc, *argv, out, &common, &e);
	if (r == 0)
		r = check_color(&common, &e);
	ctl_apply_common(c, &common);
	if (r == 0 && common.help) {
		print_help(&p);
		c->exit_code = 0;
		return false;
	}
	if (r == 0) {
		*argc -= optind;
		*argv += optind;
		r = check_count(u, *argc, *argv, &e);
	}
	if (r < 0) {
		ctl_fail(c, &e);
		c->exit_code = CTL_USAGE;
	}
	return r == 0;
}
