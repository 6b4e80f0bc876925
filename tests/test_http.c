/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "vmm/http.h"

#define MAX_BODY 64

/* What a stream of bytes turned into: "GET /a [body] keep" lines, and "BAD <status>". */
static char got[4096];

TestSuite(http, .timeout = 60);

static void note(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void note(const char *fmt, ...)
{
	size_t n = strlen(got);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(got + n, sizeof(got) - n, fmt, ap);
	va_end(ap);
}

/* Feeds `text` in pieces of at most `step` bytes. */
static const char *feed(const char *text, size_t len, size_t step)
{
	struct http_reader *h = http_create(MAX_BODY);
	struct http_response r = {0};
	size_t at = 0, used;

	got[0] = '\0';
	while (at < len) {
		enum http_event ev = http_feed(h, text + at, MIN(step, len - at), &used);
		const struct http_request *q = http_get(h);

		if (ev == HTTP_BAD) {
			http_error(h, &r);
			note("BAD %d\n", r.status);
			cr_expect(strstr(r.body, "{\"fault_message\":\""));
			free(r.body);
			break;
		}
		at += used;
		if (ev == HTTP_MORE)
			continue;
		note("%s %s [%.*s] %s\n", q->method, q->target, (int)q->body_len,
		     q->body ? q->body : "", q->keep_alive ? "keep" : "close");
		http_next(h);
	}
	http_destroy(h);
	return got;
}

/* The same however the bytes are cut. */
static void expect(const char *text, const char *want)
{
	size_t len = strlen(text);

	for (size_t step = 1; step <= len; step = step < 40 ? step + 1 : step * 2) {
		feed(text, len, step);
		cr_expect_str_eq(got, want, "in steps of %zu: %s%s", step, text, got);
	}
	feed(text, len, len);
	cr_expect_str_eq(got, want, "at once: %s%s", text, got);
}

Test(http, requests)
{
	expect("GET / HTTP/1.1\r\n\r\n", "GET / [] keep\n");
	expect("GET / HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n", "GET / [] keep\n");
	expect("GET / HTTP/1.0\r\n\r\n", "GET / [] close\n");
	expect("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET / [] keep\n");
	expect("GET /a HTTP/1.1\r\nConnection: close\r\n\r\n", "GET /a [] close\n");
	expect("PUT /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "PUT /x [hello] keep\n");
	expect("PUT /x HTTP/1.1\r\ncontent-length:5\r\n\r\nhello", "PUT /x [hello] keep\n");
	expect("PATCH /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "PATCH /x [] keep\n");
	expect("POST http://host/x?y HTTP/1.1\r\n\r\n", "POST http://host/x?y [] keep\n");
	expect("HEAD / HTTP/1.1\r\n\r\n", "HEAD / [] keep\n");
	expect("GET / HTTP/1.1\r\nEmpty:\r\nHost: x\r\n\r\n", "GET / [] keep\n");
}

Test(http, pipelined)
{
	expect("PUT /a HTTP/1.1\r\nContent-Length: 1\r\n\r\nAGET /b HTTP/1.1\r\n\r\n"
	       "PATCH /c HTTP/1.1\r\nContent-Length: 2\r\n\r\nCC",
	       "PUT /a [A] keep\nGET /b [] keep\nPATCH /c [CC] keep\n");
	expect("GET /a HTTP/1.1\r\n\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
	       "GET /a [] keep\nGET /b [] keep\n");
}

Test(http, chunked)
{
	expect("PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
	       "3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
	       "PUT /a [abcde] keep\nGET /b [] keep\n");
	expect("PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTrailer: x\r\n\r\n",
	       "PUT /a [] keep\n");
}

Test(http, upgrades_are_ignored)
{
	expect("GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nGET /b "
	       "HTTP/1.1\r\n\r\n",
	       "GET / [] keep\nGET /b [] keep\n");
	expect("PUT /a HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: "
	       "2\r\n\r\nhi",
	       "PUT /a [hi] keep\n");
}

Test(http, malformed)
{
	expect("hello\r\n\r\n", "BAD 400\n");
	expect("get / HTTP/1.1\r\n\r\n", "BAD 400\n");
	expect("BREW / HTTP/1.1\r\n\r\n", "BAD 400\n");
	expect("GET / HTTP/2.0\r\n\r\n", "BAD 400\n");
	expect("GET / HTTP/1.1\r\nno colon\r\n\r\n", "BAD 400\n");
	expect("GET / HTTP/1.1\r\nBad\x01Name: x\r\n\r\n", "BAD 400\n");
	expect("PUT / HTTP/1.1\r\nContent-Length: x\r\n\r\n", "BAD 400\n");
	expect("PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "BAD 400\n");
	expect("PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", "BAD 400\n");
	expect("PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "BAD 400\n");
	expect("PUT / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
	       "BAD 400\n");
	expect("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "BAD 400\n");
	expect("PUT / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", "BAD 400\n");
	/* A TLS client. */
	feed("\x16\x03\x01\x02\x00\x01\x00", 7, 7);
	cr_expect_str_eq(got, "BAD 400\n");
}

Test(http, body_limit)
{
	expect("PUT / HTTP/1.1\r\nContent-Length: 64\r\n\r\n"
	       "0123456789012345678901234567890123456789012345678901234567890123",
	       "PUT / [0123456789012345678901234567890123456789012345678901234567890123] keep\n");
	expect("PUT / HTTP/1.1\r\nContent-Length: 65\r\n\r\n", "BAD 413\n");
	expect("PUT / HTTP/1.1\r\nContent-Length: 9223372036854775807\r\n\r\n", "BAD 413\n");
	expect("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
	       "40\r\n0123456789012345678901234567890123456789012345678901234567890123\r\n"
	       "1\r\nx\r\n0\r\n\r\n",
	       "BAD 413\n");
	expect("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
	       "41\r\n01234567890123456789012345678901234567890123456789012345678901234\r\n",
	       "BAD 413\n");
}

Test(http, head_limits)
{
	static char text[200000];
	size_t n;

	n = (size_t)sprintf(text, "GET /%0*d HTTP/1.1\r\n\r\n", HTTP_TARGET_MAX - 1, 0);
	feed(text, n, 100);
	cr_expect(strncmp(got, "GET /0", 6) == 0);
	n = (size_t)sprintf(text, "GET /%0*d HTTP/1.1\r\n\r\n", HTTP_TARGET_MAX, 0);
	expect(text, "BAD 400\n");
	n = (size_t)sprintf(text, "GET / HTTP/1.1\r\nx: %0*d\r\n\r\n", HTTP_HEADER_MAX - 1, 0);
	feed(text, n, 100);
	cr_expect_str_eq(got, "GET / [] keep\n");
	n = (size_t)sprintf(text, "GET / HTTP/1.1\r\nx: %0*d\r\n\r\n", HTTP_HEADER_MAX, 0);
	expect(text, "BAD 400\n");
	n = (size_t)sprintf(text, "GET / HTTP/1.1\r\nx%0*d: 1\r\n\r\n", HTTP_HEADER_MAX, 0);
	expect(text, "BAD 400\n");
	n = (size_t)sprintf(text, "GET / HTTP/1.1\r\n");
	for (int i = 0; i < HTTP_HEADERS_MAX; i++)
		n += (size_t)sprintf(text + n, "a%d: b\r\n", i);
	strcpy(text + n, "\r\n");
	feed(text, n + 2, n + 2);
	cr_expect_str_eq(got, "GET / [] keep\n");
	strcpy(text + n, "one-more: x\r\n\r\n");
	expect(text, "BAD 400\n");
}

Test(http, many_trailers_are_refused_too)
{
	static char text[20000];
	size_t n =
		(size_t)sprintf(text, "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n");

	for (int i = 0; i < HTTP_HEADERS_MAX; i++)
		n += (size_t)sprintf(text + n, "a%d: b\r\n", i);
	strcpy(text + n, "\r\n");
	expect(text, "BAD 400\n");
}

static bool wants_continue(const char *text)
{
	struct http_reader *h = http_create(MAX_BODY);
	size_t used;
	bool wants;

	cr_expect_eq(http_feed(h, text, strlen(text), &used), HTTP_MORE);
	cr_expect(http_partial(h));
	wants = http_wants_continue(h);
	cr_expect_not(http_wants_continue(h), "only once");
	http_destroy(h);
	return wants;
}

Test(http, expect_100_continue)
{
	cr_expect(wants_continue(
		"PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"));
	cr_expect(wants_continue(
		"PUT / HTTP/1.1\r\nContent-Length: 2\r\nexpect: 100-Continue\r\n\r\n"));
	cr_expect_not(wants_continue("PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\n"));
	cr_expect_not(wants_continue(
		"PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"));
	cr_expect_not(wants_continue(
		"PUT / HTTP/1.1\r\nExpectation: 100-continue\r\nContent-Length: 2\r\n\r\n"));
	expect("PUT / HTTP/1.1\r\nExpect: coffee\r\nContent-Length: 2\r\n\r\n", "BAD 417\n");
	expect("PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
	       "PUT / [hi] keep\n");
	/* Too large: told before the body is sent. */
	expect("PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 99\r\n\r\n", "BAD 413\n");
}

Test(http, partial_means_some_bytes_of_a_request)
{
	struct http_reader *h = http_create(MAX_BODY);
	size_t used;

	cr_expect_not(http_partial(h));
	http_feed(h, "", 0, &used);
	cr_expect_not(http_partial(h));
	http_feed(h, "GE", 2, &used);
	cr_expect(http_partial(h));
	cr_expect_eq(http_feed(h, "T / HTTP/1.1\r\n\r\n", 16, &used), HTTP_READY);
	cr_expect_not(http_partial(h));
	http_next(h);
	cr_expect_not(http_partial(h));
	http_destroy(h);
	http_destroy(NULL);
}

Test(http, keeps_the_headers_it_is_told_to)
{
	static const char *const names[] = {"X-Token", "Accept", "X-None", NULL};
	static const char text[] =
		"GET /a HTTP/1.1\r\nX-Tokens: no\r\nx-toKEN: yes\r\nX-Tok: no\r\n"
		"X-Token: second\r\nAccept: ";
	char all[512], cut[HTTP_VALUE_MAX + 1];
	size_t used, len;

	memset(cut, 'c', HTTP_VALUE_MAX);
	cut[HTTP_VALUE_MAX] = '\0';
	len = (size_t)snprintf(all, sizeof(all), "%s%sccc\r\n\r\n", text, cut);
	for (size_t step = 1; step <= len; step++) {
		struct http_reader *h = http_create(MAX_BODY);
		enum http_event ev = HTTP_MORE;

		http_keep(h, names);
		for (size_t at = 0; at < len; at += used)
			ev = http_feed(h, all + at, MIN(step, len - at), &used);
		cr_assert_eq(ev, HTTP_READY);
		cr_assert_str_eq(http_kept(h, 0), "yes");
		cr_assert_str_eq(http_kept(h, 1), cut);
		cr_assert_null(http_kept(h, 2));
		http_next(h);
		cr_assert_null(http_kept(h, 0));
		http_destroy(h);
	}
}

Test(http, print)
{
	struct http_response r = {.status = 204, .keep_alive = true};
	struct http_response more = {.status = 405, .extra = "Allow: GET\r\n"};
	size_t len;
	char *text = http_print(&r, &len);

	cr_expect_str_eq(text, "HTTP/1.1 204 No Content\r\nServer: Firecracker API\r\n"
			       "Connection: keep-alive\r\n\r\n");
	cr_expect_eq(len, strlen(text));
	free(text);
	http_respond_fault(&r, 400, "a \"b\"\n\xff");
	r.keep_alive = false;
	text = http_print(&r, &len);
	cr_expect_str_eq(text, "HTTP/1.1 400 Bad Request\r\nServer: Firecracker API\r\n"
			       "Connection: close\r\nContent-Type: application/json\r\n"
			       "Content-Length: 29\r\n\r\n{\"fault_message\":\"a \\\"b\\\"??\"}");
	cr_expect_null(r.body);
	free(text);
	http_respond_fault(&r, 400, "x");
	r.no_body = true;
	text = http_print(&r, &len);
	cr_expect_str_eq(strstr(text, "Content-Length"), "Content-Length: 21\r\n\r\n");
	free(text);
	text = http_print(&more, &len);
	cr_expect_str_eq(strstr(text, "Connection"),
			 "Connection: close\r\nAllow: GET\r\nContent-Length: 0\r\n\r\n");
	free(text);
}
