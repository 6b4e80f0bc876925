/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/event.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static struct loop loop;
static struct event_log l;
static unsigned told;

static void on_added(void *arg)
{
	(void)arg;
	told++;
}

static void start(void)
{
	cr_assert_eq(loop_init(&loop, NULL), 0);
	cr_assert_eq(event_init(&l, &loop, NULL), 0);
	l.added = on_added;
}

static void finish(void)
{
	event_finish(&l);
	loop_finish(&loop);
}

TestSuite(event, .init = start, .fini = finish, .timeout = 30);

static const char *take(uint64_t *at)
{
	static char buf[EVENT_KEEP * EVENT_LINE_MAX];
	size_t n = event_read(&l, at, buf, sizeof(buf));

	cr_assert_eq(n, strlen(buf));
	return buf;
}

/* The lines of `text` as JSON; owned by the caller. */
static json_t *parse(const char *text)
{
	json_t *list = json_array();

	while (*text) {
		size_t len = strcspn(text, "\n");
		json_t *v = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);

		cr_assert_not_null(v, "not JSON: %s", text);
		json_array_append_new(list, v);
		cr_assert_eq(text[len], '\n');
		text += len + 1;
	}
	return list;
}

static const char *text_of(const json_t *list, size_t i, const char *key)
{
	return json_string_value(json_object_get(json_array_get(list, i), key));
}

static json_int_t number_of(const json_t *list, size_t i, const char *key)
{
	return json_integer_value(json_object_get(json_array_get(list, i), key));
}

Test(event, members_and_position)
{
	uint64_t at = 0, late = 0;
	json_t *list;

	cr_expect_str_eq(take(&at), "");
	event_emit(&l, "paused");
	event_emit(&l, "exit", EVENT_TEXT("reason", "a \"b\"\\\n\xff"), EVENT_NUMBER("code", -3));
	list = parse(take(&at));
	cr_assert_eq(json_array_size(list), 2);
	cr_expect_str_eq(text_of(list, 0, "event"), "paused");
	cr_expect_eq(number_of(list, 0, "seq"), 1);
	cr_expect_gt(number_of(list, 0, "time_ms"), 1700000000000);
	cr_expect_str_eq(text_of(list, 1, "reason"), "a \"b\"\\??");
	cr_expect_eq(number_of(list, 1, "code"), -3);
	json_decref(list);
	cr_expect_str_eq(take(&at), "");
	event_emit(&l, "resumed");
	list = parse(take(&at));
	cr_expect_eq(json_array_size(list), 1);
	cr_expect_eq(number_of(list, 0, "seq"), 3);
	json_decref(list);
	list = parse(take(&late));
	cr_expect_eq(json_array_size(list), 3, "who comes late is told everything");
	json_decref(list);
}

Test(event, nobody_interested)
{
	event_emit(NULL, "paused", EVENT_NUMBER("x", 1));
}

Test(event, texts_of_any_length_stay_json)
{
	char text[400];

	memset(text, '"', sizeof(text));
	for (size_t len = 0; len < sizeof(text) - 1; len++) {
		uint64_t at = l.count;
		json_t *list;

		text[len] = '\0';
		event_emit(&l, "x", EVENT_TEXT("text", text), EVENT_NUMBER("n", 7));
		text[len] = '"';
		list = parse(take(&at));
		cr_assert_eq(json_array_size(list), 1);
		cr_expect_str_eq(text_of(list, 0, "event"), "x");
		json_decref(list);
	}
}

Test(event, a_slow_reader_is_told_how_many_it_missed)
{
	uint64_t at = 0;
	json_t *list;

	event_emit(&l, "first");
	take(&at);
	for (unsigned i = 0; i < EVENT_KEEP + 10; i++)
		event_emit(&l, "more");
	list = parse(take(&at));
	cr_expect_eq(json_array_size(list), EVENT_KEEP + 1);
	cr_expect_str_eq(text_of(list, 0, "event"), "dropped");
	cr_expect_eq(number_of(list, 0, "count"), 10);
	cr_expect_eq(number_of(list, 1, "seq"), 12);
	json_decref(list);
}

Test(event, whole_lines_only)
{
	char buf[150];
	uint64_t at = 0;
	unsigned lines = 0;

	for (unsigned i = 0; i < 10; i++)
		event_emit(&l, "resumed", EVENT_NUMBER("i", i));
	while (event_read(&l, &at, buf, sizeof(buf)) > 0) {
		json_t *list = parse(buf);

		lines += (unsigned)json_array_size(list);
		json_decref(list);
	}
	cr_expect_eq(lines, 10);
	at = 0;
	cr_expect_eq(event_read(&l, &at, buf, 10), 0);
	cr_expect_eq(at, 0);
	cr_expect_eq(event_read(&l, &at, buf, 0), 0);
}

static void *emit_many(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < 1000; i++)
		event_emit(&l, "x", EVENT_NUMBER("i", i));
	return NULL;
}

Test(event, from_other_threads)
{
	pthread_t thread[2];

	for (size_t i = 0; i < ARRAY_SIZE(thread); i++)
		cr_assert_eq(pthread_create(&thread[i], NULL, emit_many, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(thread); i++)
		pthread_join(thread[i], NULL);
	cr_expect_eq(l.count, 2000);
	cr_assert_eq(loop_run_once(&loop, 0), 0);
	cr_expect_eq(told, 1, "one wake for many");
}
