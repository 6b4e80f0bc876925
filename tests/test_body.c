/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>

#include "api-sock/body.h"

enum colour { RED, GREEN };

struct thing {
	bool flag;
	unsigned small;
	uint64_t big;
	char *text;
	char id[9];
	enum colour colour;
	bool backend;
};

static const struct body_name colours[] = {
	{"Red", RED}, {"Rot", RED}, {"Green", GREEN}, {"Blue", BODY_REFUSED}, {0}};
static const struct body_name backends[] = {{"Anon", false}, {"File", true}, {0}};
static const struct body_name constant[] = {{"Sync", 0}, {"Async", BODY_REFUSED}, {0}};

#define AT(member) \
	.offset = offsetof(struct thing, member), .size = sizeof(((struct thing *)0)->member)
static const struct body_field fields[] = {
	{"flag", BODY_BOOL, BODY_REQUIRED, AT(flag)},
	{"small", BODY_UINT, 0, AT(small), .min = 1, .max = 32},
	{"big", BODY_UINT, 0, AT(big), .max = INT64_MAX},
	{"text", BODY_STRING, 0, AT(text), .max = 8},
	{"id", BODY_ID, 0, AT(id)},
	{"colour", BODY_ENUM, BODY_ANY_CASE, AT(colour), .names = colours},
	{"backend", BODY_ENUM, 0, AT(backend), .names = backends},
	{"engine", BODY_ENUM, BODY_HIDDEN, .names = constant},
	{.name = "limiter", .type = BODY_UNSUPPORTED},
};
static const struct body schema = {.name = "Thing", .field = fields, .count = ARRAY_SIZE(fields)};

static struct thing t;
static struct err e;

static int read_text(const char *text, bool partial)
{
	json_t *json = body_parse(text, strlen(text), &e);
	int r = json ? body_read(&schema, json, partial, &t, &e) : -EINVAL;

	json_decref(json);
	return r;
}

static void finish(void)
{
	free(t.text);
}

TestSuite(body, .fini = finish, .timeout = 30);

/* The text is refused and the message has all of `part` in it. */
static void refused(const char *text, const char *part)
{
	cr_expect_eq(read_text(text, false), -EINVAL, "%s", text);
	cr_expect(strstr(e.msg, part), "%s: '%s' is not in '%s'", text, part, e.msg);
	cr_expect_null(strchr(e.msg, '\n'));
}

Test(body, stores_every_type)
{
	cr_assert_eq(read_text("{\"flag\":true,\"small\":32,\"big\":9223372036854775807,"
			       "\"text\":\"12345678\",\"id\":\"abc_1234\",\"colour\":\"gREEN\","
			       "\"backend\":\"File\",\"engine\":\"Sync\"}",
			       false),
		     0, "%s", e.msg);
	cr_expect(t.flag);
	cr_expect_eq(t.small, 32);
	cr_expect_eq(t.big, INT64_MAX);
	cr_expect_str_eq(t.text, "12345678");
	cr_expect_str_eq(t.id, "abc_1234");
	cr_expect_eq(t.colour, GREEN);
	cr_expect(t.backend);
}

Test(body, absent_and_null_fields_keep_the_default)
{
	t.small = 7;
	t.colour = GREEN;
	cr_assert_eq(
		read_text("{\"flag\":false,\"small\":null,\"text\":null,\"limiter\":null}", false),
		0);
	cr_expect_eq(t.small, 7);
	cr_expect_eq(t.colour, GREEN);
	cr_expect_null(t.text);
}

Test(body, a_string_given_again_replaces_the_first)
{
	cr_assert_eq(read_text("{\"text\":\"a\"}", true), 0);
	cr_assert_eq(read_text("{\"text\":\"b\"}", true), 0);
	cr_expect_str_eq(t.text, "b");
}

Test(body, required_unless_partial)
{
	refused("{}", "missing field `flag`");
	refused("{\"flag\":null}", "missing field `flag`");
	cr_expect_eq(read_text("{}", true), 0);
}

Test(body, wrong_types)
{
	static const struct {
		const char *value, *field;
	} bad[] = {
		{"1", "flag"},	 {"\"true\"", "flag"},	  {"\"1\"", "small"}, {"1.0", "small"},
		{"true", "big"}, {"[]", "text"},	  {"{}", "text"},     {"5", "id"},
		{"1", "colour"}, {"[\"Red\"]", "colour"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		char text[80], part[80];

		snprintf(text, sizeof(text), "{\"flag\":true,\"%s\":%s}", bad[i].field,
			 bad[i].value);
		if (strcmp(bad[i].field, "flag") == 0)
			snprintf(text, sizeof(text), "{\"flag\":%s}", bad[i].value);
		snprintf(part, sizeof(part), "field `%s`: invalid type", bad[i].field);
		refused(text, part);
	}
	refused("[]", "expected an object");
	refused("null", "expected an object");
	refused("\"text\"", "expected an object");
}

Test(body, numbers_out_of_range)
{
	refused("{\"flag\":true,\"small\":0}", "field `small`: 0 is not within 1..32");
	refused("{\"flag\":true,\"small\":33}", "field `small`: 33 is not within 1..32");
	refused("{\"flag\":true,\"small\":-1}", "field `small`: -1 is not within 1..32");
	refused("{\"flag\":true,\"small\":4294967297}", "field `small`");
	refused("{\"flag\":true,\"big\":9223372036854775808}", "too big");
	refused("{\"flag\":true,\"big\":-9223372036854775808}", "field `big`");
	refused("{\"flag\":true,\"small\":1e99999}", "overflow");
}

Test(body, strings_too_long_or_with_zero_bytes)
{
	refused("{\"flag\":true,\"text\":\"123456789\"}", "field `text`: 9 bytes, at most 8");
	refused("{\"flag\":true,\"text\":\"a\\u0000b\"}", "\\u0000");
	refused("{\"fl\\u0000ag\":true}", "\\u0000");
}

Test(body, ids)
{
	refused("{\"flag\":true,\"id\":\"\"}", "field `id`: The ID cannot be empty.");
	refused("{\"flag\":true,\"id\":\"a-b\"}", "alphanumeric");
	refused("{\"flag\":true,\"id\":\"../a\"}", "alphanumeric");
	refused("{\"flag\":true,\"id\":\"123456789\"}", "at most 8");
}

Test(body, enums)
{
	refused("{\"flag\":true,\"colour\":\"Yellow\"}",
		"field `colour`: unknown variant `Yellow`, expected one of `Red`, `Rot`, `Green`");
	refused("{\"flag\":true,\"backend\":\"file\"}", "unknown variant `file`");
	refused("{\"flag\":true,\"engine\":\"Async\"}",
		"field `engine`: 'Async' is not supported, expected `Sync`");
	refused("{\"flag\":true,\"limiter\":{}}", "field `limiter` is not supported");
}

Test(body, unknown_field_names_the_known_ones)
{
	refused("{\"flag\":true,\"flags\":1}",
		"unknown field `flags`, expected one of `flag`, `small`, `big`");
	refused("{\"Flag\":true}", "unknown field `Flag`");
	cr_expect_eq(read_text("{\"nope\":1}", true), -EINVAL);
}

Test(body, a_long_unknown_field_stays_a_message)
{
	char text[5000];

	memset(text, 'x', sizeof(text));
	memcpy(text, "{\"", 2);
	strcpy(text + sizeof(text) - 5, "\":1}");
	refused(text, "unknown field `xxx");
	cr_expect(strstr(e.msg, "`flag`"));
}

Test(body, texts_that_are_not_json)
{
	static const char *const bad[] = {"",
					  "{",
					  "{\"flag\":true}}",
					  "{\"flag\":true,}",
					  "nul",
					  "{flag:true}",
					  "{\"flag\":true} x",
					  "\xff",
					  "{\"flag\":true,\"text\":\"\xc3\"}"};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		refused(bad[i], "line 1 column");
	refused("{\"flag\":true,\"flag\":false}", "duplicate");
}

Test(body, deep_nesting_is_refused_not_followed)
{
	char text[20000];

	memset(text, '[', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	refused(text, "maximum parsing depth");
}

Test(body, prints_what_it_read)
{
	const char *text = "{\"flag\":true,\"small\":3,\"big\":4,\"text\":\"x\",\"id\":\"i\","
			   "\"colour\":\"Red\",\"backend\":\"File\",\"limiter\":null}";
	cleanup_free char *printed = NULL;
	json_t *json;

	cr_assert_eq(read_text(text, false), 0);
	json = body_print(&schema, &t);
	printed = json_dumps(json, JSON_COMPACT);
	json_decref(json);
	cr_expect_str_eq(printed, text);
}
