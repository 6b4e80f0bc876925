/* SPDX-License-Identifier: Apache-2.0 */
/* Command lines of sporectl's verbs: every kind of option, and what an error says. */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "ctl/ctl.h"

struct values {
	bool flag;
	const char *text;
	uint64_t number, size;
	struct ctl_list list;
};

#define AT(member) offsetof(struct values, member)
static const struct ctl_option options[] = {
	{"flag", 'f', CTL_FLAG, AT(flag), NULL, "a flag"},
	{"text", 't', CTL_TEXT, AT(text), "TEXT", "a text"},
	{"number", 'n', CTL_NUMBER, AT(number), "N", "a number"},
	{"size", 's', CTL_SIZE, AT(size), "SIZE", "a size"},
	{"list", 'l', CTL_LIST, AT(list), "ITEM", "a list"},
	{0},
};
static struct ctl_usage usage;
static struct ctl c;
static struct values v;
static int argc;
static char **argv, *words[40];

static bool parse(const char *word, ...)
{
	va_list ap;

	c = (struct ctl){.verb = "try"};
	v = (struct values){0};
	words[0] = (char[]){"try"};
	argc = 1;
	va_start(ap, word);
	for (; word; word = va_arg(ap, const char *))
		words[argc++] = (char *)(uintptr_t)word;
	va_end(ap);
	words[argc] = NULL;
	argv = words;
	return ctl_parse(&c, &usage, &argc, &argv, &v);
}

static void setup(void)
{
	usage = (struct ctl_usage){.arguments = "NAME...",
				   .options = options,
				   .examples = "sporectl try a\n",
				   .max = CTL_MANY};
	cr_redirect_stderr();
}

static void read_all(FILE *f, char buf[4096])
{
	size_t n;

	fflush(NULL);
	n = fread(buf, 1, 4095, f);
	buf[n] = '\0';
}

/* What was refused, and the last two lines of it. */
#define REFUSED(what, advice, ...)                                                           \
	do {                                                                                 \
		char said[4096];                                                             \
		cr_assert_not(parse(__VA_ARGS__, NULL));                                     \
		cr_expect_eq(c.exit_code, CTL_USAGE);                                        \
		read_all(cr_get_redirected_stderr(), said);                                  \
		cr_expect(strstr(said, what), "no '%s' in '%s'", what, said);                \
		cr_expect(strstr(said, "     try: " advice "\n"), "'%s': %s", advice, said); \
	} while (0)

TestSuite(ctl_args, .timeout = 30, .init = setup);

Test(ctl_args, each_kind_of_option_in_each_spelling)
{
	cr_assert(parse("-f", "--text", "a", "--number=7", "-s2G", "-l", "x", "--list=y", "name",
			NULL));
	cr_expect(v.flag);
	cr_expect_str_eq(v.text, "a");
	cr_expect_eq(v.number, 7);
	cr_expect_eq(v.size, 2ull << 30);
	cr_expect_eq(v.list.count, 2);
	cr_expect_str_eq(v.list.item[0], "x");
	cr_expect_str_eq(v.list.item[1], "y");
	cr_expect_eq(argc, 1);
	cr_expect_str_eq(argv[0], "name");
}

Test(ctl_args, options_stand_anywhere_unless_the_verb_says_otherwise)
{
	cr_assert(parse("one", "-f", "two", "--", "-n", NULL));
	cr_expect(v.flag);
	cr_expect_eq(argc, 3);
	cr_expect_str_eq(argv[2], "-n");
	usage.no_more_options = true;
	cr_assert(parse("-f", "one", "-n", "--help", NULL));
	cr_expect(v.flag);
	cr_expect_eq(argc, 3);
	cr_expect_str_eq(argv[1], "-n");
}

Test(ctl_args, options_that_all_verbs_have)
{
	cr_assert(parse("--json", "--state-dir", "/x", "--color=always", NULL));
	cr_expect(c.json);
	cr_expect(c.color);
	cr_expect_str_eq(c.state_dir, "/x");
	cr_assert(parse("--color=never", NULL));
	cr_expect_not(c.color);
	cr_expect_not(c.json);
}

Test(ctl_args, what_is_refused)
{
	REFUSED("'--flg': no such option", "sporectl try --flag", "--flg");
	REFUSED("'--nothing-like-it': no such option", "sporectl try --help", "--nothing-like-it");
	REFUSED("'-x': no such option", "sporectl try --help", "-x");
	REFUSED("'--text' needs a value", "sporectl try --help", "--text");
	REFUSED("'--flag' takes no value", "sporectl try --help", "--flag=1");
	REFUSED("'many' is not", "sporectl try --help", "--number", "many");
	REFUSED("'-1' is not", "sporectl try --help", "--number=-1");
	REFUSED("'18446744073709551616' is not", "sporectl try --help", "-n18446744073709551616");
	REFUSED("'lots' is not a size", "sporectl try --help", "--size=lots");
	REFUSED("--color: 'blue'", "sporectl try --help", "--color=blue");
}

Test(ctl_args, how_many_arguments)
{
	usage.min = usage.max = 1;
	cr_assert(parse("a", NULL));
	REFUSED("needs NAME...", "sporectl try --help", "-f");
	REFUSED("'b': unexpected argument", "sporectl try --help", "a", "b");
}

Test(ctl_args, a_list_has_an_end)
{
	words[1] = (char[]){"-f"};
	usage.min = 0;
	REFUSED("--list: at most 16", "sporectl try --help", "-la", "-la", "-la", "-la", "-la",
		"-la", "-la", "-la", "-la", "-la", "-la", "-la", "-la", "-la", "-la", "-la", "-la");
}

Test(ctl_args, errors_have_no_control_characters)
{
	char said[4096];

	cr_assert_not(parse("--number", "\033[31m\n7", NULL));
	read_all(cr_get_redirected_stderr(), said);
	cr_expect_null(strchr(said, '\033'));
	cr_expect_null(strstr(said, "\n7"));
}

/* Each run of blanks and line ends becomes one blank: a text may go on in the next line. */
static void join(char *s)
{
	char *to = s;

	for (; *s; s++) {
		bool blank = *s == ' ' || *s == '\n';

		if (!blank || (s[1] != ' ' && s[1] != '\n'))
			*to++ = blank ? ' ' : *s;
	}
	*to = '\0';
}

Test(ctl_args, help_names_every_option)
{
	char said[4096];

	cr_redirect_stdout();
	cr_assert_not(parse("--help", NULL));
	cr_expect_eq(c.exit_code, 0);
	read_all(cr_get_redirected_stdout(), said);
	cr_expect(strstr(said, "usage: sporectl try [OPTION...] NAME..."));
	cr_expect(strstr(said, "  sporectl try a\n"));
	join(said);
	for (const struct ctl_option *o = options; o->name; o++)
		cr_expect(strstr(said, o->help), "%s", o->name);
	for (const struct ctl_option *o = ctl_common_options; o->name; o++)
		cr_expect(strstr(said, o->help), "%s", o->name);
}

Test(ctl_args, sizes)
{
	static const struct {
		const char *text;
		uint64_t bytes; /* 0: none */
	} cases[] = {
		{"1", 1 << 20},
		{"256", 256 << 20},
		{"64K", 64 << 10},
		{"2g", 2ull << 30},
		{"3MiB", 3 << 20},
		{"1TB", 1ull << 40},
		{"", 0},
		{"0", 0},
		{"0G", 0},
		{"-1", 0},
		{" 1", 0},
		{"1X", 0},
		{"1MM", 0},
		{"1Mi", 0},
		{"M", 0},
		{"1.5G", 0},
		{"16777216T", 0},
		{"18446744073709551616", 0},
		{"17592186044416", 0},
		{"16777215T", 16777215ull << 40},
	};
	uint64_t bytes;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		bool ok = ctl_parse_size(cases[i].text, &bytes);

		cr_expect_eq(ok, cases[i].bytes != 0, "'%s'", cases[i].text);
		if (ok)
			cr_expect_eq(bytes, cases[i].bytes, "'%s'", cases[i].text);
	}
}

static const char *one_of(void *arg, unsigned i)
{
	static const char *const names[] = {"run", "resume", "restore", "ps"};

	(void)arg;
	return i < ARRAY_SIZE(names) ? names[i] : NULL;
}

Test(ctl_args, the_nearest_name)
{
	cr_expect_str_eq(ctl_nearest("rnu", one_of, NULL), "run");
	cr_expect_str_eq(ctl_nearest("restor", one_of, NULL), "restore");
	cr_expect_null(ctl_nearest("snapshot", one_of, NULL));
	cr_expect_null(ctl_nearest("tin", one_of, NULL), "two of three letters are others");
	cr_expect_null(ctl_nearest("xy", one_of, NULL),
		       "two slips in a word of two are no likeness");
	cr_expect_null(ctl_nearest("", one_of, NULL));
}
