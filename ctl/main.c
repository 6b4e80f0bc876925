/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ctl/table.h"
#include "ctl/verbs.h"

/* In the order of --help. */
static const struct verb {
	const char *name, *summary;
	int (*run)(struct ctl *c, int argc, char **argv);
} verbs[] = {
	{"run", "start a microVM, with its console here", verb_run},
	{"ps", "list the microVMs", verb_ps},
	{"top", "the same again and again, with what each uses", verb_top},
	{"console", "attach to the console of one; Ctrl-] detaches", verb_console},
	{"logs", "what the guest has printed, or spore", verb_logs},
	{"stop", "ask guests to shut down, and end them if they do not", verb_stop},
	{"rm", "remove what is kept of microVMs that have ended", verb_rm},
	{"pause", "halt the processors of microVMs", verb_pause},
	{"resume", "let them go on", verb_resume},
	{"snapshot", "write the state of one into a directory", verb_snapshot},
	{"restore", "start one from such a directory", verb_restore},
	{"clone", "start several from it, in the background", verb_clone},
	{"fork", "make children of one that goes on running", verb_fork},
	{"migrate", "move one that runs into another process, here or elsewhere", verb_migrate},
	{"receive", "wait for one that migrate brings", verb_receive},
	{"pool", "keep warm shells, and make clones of a snapshot out of them", verb_pool},
	{"events", "what happens to one, as JSON lines", verb_events},
	{"metrics", "the counters of one, as Prometheus reads them", verb_metrics},
	{"exec", "run a command in the guest", verb_exec},
	{"cp", "copy files into the guest or out of it", verb_cp},
	{"identity", "make the guest of a clone somebody else", verb_identity},
	{"kernel", "get a kernel of Debian, or build a small one", verb_kernel},
	{"image", "make root file systems of directories, tars, containers, Debian", verb_image},
	{"doctor", "look whether this machine has what microVMs need", verb_doctor},
	{"completion", "what bash or zsh needs to complete these words", verb_completion},
};

static const char *verb_name(void *arg, unsigned i)
{
	(void)arg;
	return i < ARRAY_SIZE(verbs) ? verbs[i].name : NULL;
}

static int print_help(const struct ctl *c)
{
	printf("usage: sporectl VERB [OPTION...] [ARGUMENT...]\n\nverbs:\n");
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		printf("  %s%-11s%s %s\n", table_color(c, TABLE_BOLD), verbs[i].name,
		       table_color(c, TABLE_PLAIN), verbs[i].summary);
	printf("\noptions of all verbs:\n");
	ctl_print_options(ctl_common_options);
	printf("\nsporectl VERB --help tells the rest, with examples.\n"
	       "sporectl --version prints the version.\n");
	return 0;
}

/* Before the verb there may be options that all have. Returns the index of the verb, or argc. */
static int read_common(struct ctl *c, int argc, char **argv, bool *help, bool *version)
{
	struct ctl_common common = {0};
	int i;

	for (i = 1; i < argc && argv[i][0] == '-'; i++) {
		const char *a = argv[i];

		if (strcmp(a, "--json") == 0)
			common.json = true;
		else if (strcmp(a, "--version") == 0)
			*version = true;
		else if (strncmp(a, "--state-dir=", 12) == 0)
			common.state_dir = a + 12;
		else if (strcmp(a, "--state-dir") == 0 && i + 1 < argc)
			common.state_dir = argv[++i];
		else if (strncmp(a, "--color=", 8) == 0)
			common.color = a + 8;
		else if (strcmp(a, "--color") == 0 && i + 1 < argc)
			common.color = argv[++i];
		else if (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0)
			*help = true;
		else
			break;
	}
	ctl_apply_common(c, &common);
	return i;
}

/* What other tools call it. */
static const char *other_name(const char *name)
{
	static const struct {
		const char *theirs, *ours;
	} names[] = {
		{"attach", "console NAME"},
		{"boot", "run"},
		{"build", "image build SOURCE"},
		{"create", "run"},
		{"delete", "rm NAME"},
		{"destroy", "rm NAME"},
		{"images", "image ls"},
		{"kill", "stop --now NAME"},
		{"list", "ps"},
		{"load", "restore DIRECTORY"},
		{"log", "logs NAME"},
		{"ls", "ps"},
		{"remove", "rm NAME"},
		{"save", "snapshot NAME DIR"},
		{"shell", "exec -it NAME sh"},
		{"ssh", "exec -it NAME sh"},
		{"start", "run"},
		{"stats", "top"},
		{"status", "ps"},
		{"suspend", "pause NAME"},
		{"unpause", "resume NAME"},
		{"version", "--version"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(names[i].theirs, name) == 0)
			return names[i].ours;
	return NULL;
}

static int unknown_verb(struct ctl *c, const char *name)
{
	const char *other = other_name(name);
	const char *near = other ? other : ctl_nearest(name, verb_name, NULL);
	struct err e;

	err_set(&e, EINVAL, "'%.64s': no such verb", name);
	if (near)
		ctl_hint(c, "sporectl %s", near);
	else
		ctl_hint(c, "sporectl --help");
	ctl_fail(c, &e);
	return CTL_USAGE;
}

static int run_verb(struct ctl *c, int argc, char **argv)
{
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		if (strcmp(argv[0], verbs[i].name) != 0)
			continue;
		c->verb = verbs[i].name;
		return verbs[i].run(c, argc, argv);
	}
	return unknown_verb(c, argv[0]);
}

int main(int argc, char **argv)
{
	struct ctl c = {0};
	bool help = argc < 2, version = false;
	int at;

	at = read_common(&c, argc, argv, &help, &version);
	if (version)
		return printf("sporectl v%s\n", SPORE_VERSION) < 0;
	if (help || at >= argc || (strcmp(argv[at], "help") == 0 && at + 1 == argc))
		return print_help(&c);
	if (strcmp(argv[at], "help") == 0) {
		char *turned[] = {argv[at + 1], (char[]){"--help"}, NULL};

		return run_verb(&c, 2, turned);
	}
	return run_verb(&c, argc - at, argv + at);
}
