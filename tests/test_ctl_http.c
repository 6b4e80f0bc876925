/* SPDX-License-Identifier: Apache-2.0 */
/* What sporectl makes of answers, good and bad, that come over the socket; libcurl is the real one. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "ctl/hint.h"
#include "ctl/http.h"

static char dir[] = "/tmp/spore-http-XXXXXX", path[64], request[8192];
static const char *answer; /* of the server */
static size_t answer_len;
static int listener = -1;
static pthread_t thread;
static struct ctl c;
static struct err e;

/* Takes one connection, reads a request with its body, and sends the answer in two pieces. */
static void *serve(void *arg)
{
	int fd = accept(listener, NULL, NULL);
	size_t len = 0, half = answer_len / 2;
	const char *end = NULL;

	(void)arg;
	while (!end || len < (size_t)(end - request)) {
		ssize_t n = read(fd, request + len, sizeof(request) - 1 - len);
		const char *body, *count;

		if (n <= 0)
			break;
		len += (size_t)n;
		request[len] = '\0';
		body = strstr(request, "\r\n\r\n");
		count = strstr(request, "Content-Length: ");
		if (body)
			end = body + 4 +
			      (count && count < body ? strtoul(count + 16, NULL, 10) : 0);
	}
	(void)!write(fd, answer, half);
	(void)!write(fd, answer + half, answer_len - half);
	close(fd);
	return NULL;
}

static void listen_with(const char *text)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	c = (struct ctl){.verb = "try"};
	e = (struct err){0};
	answer = text;
	answer_len = strlen(text);
	unlink(path);
	strcpy(addr.sun_path, path);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	cr_assert_eq(listen(listener, 4), 0);
	cr_assert_eq(pthread_create(&thread, NULL, serve, NULL), 0);
}

static void hang_up(void)
{
	pthread_join(thread, NULL);
	close(listener);
}

static int get(const char *text, struct http_answer *a)
{
	const struct http_call call = {.socket = path, .method = "GET", .path = "/x"};
	int r;

	listen_with(text);
	r = http_call(&c, &call, a, &e);
	hang_up();
	return r;
}

/* An answer with `body`, whose length it has. */
static const char *reply(const char *status, const char *body)
{
	static char text[512];

	snprintf(text, sizeof(text), "HTTP/1.1 %s\r\nContent-Length: %zu\r\n\r\n%s", status,
		 strlen(body), body);
	return text;
}

static void setup(void)
{
	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
}

static void teardown(void)
{
	unlink(path);
	rmdir(dir);
}

TestSuite(ctl_http, .timeout = 60, .init = setup, .fini = teardown);

Test(ctl_http, json_and_text_and_nothing)
{
	struct http_answer a;

	cr_assert_eq(get("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\": 42}", &a), 0, "%s",
		     e.msg);
	cr_expect_eq(a.status, 200);
	cr_expect_eq(json_integer_value(json_object_get(a.body, "a")), 42);
	cr_expect_null(a.text);
	http_answer_finish(&a);
	cr_assert_eq(get("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\na_b 1\n\n", &a), 0, "%s",
		     e.msg);
	cr_expect_str_eq(a.text, "a_b 1\n\n");
	cr_expect_null(a.body);
	http_answer_finish(&a);
	cr_assert_eq(get("HTTP/1.1 204 No Content\r\n\r\n", &a), 0, "%s", e.msg);
	cr_expect_null(a.body);
	cr_expect_null(a.text);
	http_answer_finish(&a);
	http_answer_finish(&a);
}

Test(ctl_http, the_request_is_what_was_asked)
{
	json_t *body = json_pack("{s:s}", "state", "Paused");

	listen_with("HTTP/1.1 204 No Content\r\n\r\n");
	cr_assert_eq(http_send(&c, path, "PATCH", "/vm", body, &e), 0, "%s", e.msg);
	hang_up();
	cr_expect_eq(strncmp(request, "PATCH /vm HTTP/1.1\r\n", 20), 0, "%s", request);
	cr_expect(strstr(request, "\r\nContent-Type: application/json\r\n"));
	cr_expect(strstr(request, "\r\n\r\n{\"state\":\"Paused\"}"));
}

Test(ctl_http, a_refusal_has_spores_words)
{
	struct http_answer a;

	cr_expect_eq(
		get(reply("400 Bad Request", "{\"fault_message\": \"open '/x': no\\u001b[1m\"}"),
		    &a),
		-EBADMSG);
	cr_expect_eq(strncmp(e.msg, "open '/x': no", 13), 0, "%s", e.msg);
	cr_expect_null(a.body);
	cr_expect_null(a.text);
}

Test(ctl_http, refusals_that_are_not_spores)
{
	static const char *const answers[] = {
		"HTTP/1.1 500 Oops\r\nContent-Length: 6\r\n\r\n<html>",
		"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n[]",
		"HTTP/1.1 400 Bad Request\r\nContent-Length: 20\r\n\r\n{\"fault_message\": 42}",
		"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: http://example.org/\r\nContent-Length: 0\r\n\r\n",
	};

	for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
		cr_expect_eq(get(answers[i], NULL), -EBADMSG, "%s", answers[i]);
		cr_expect_str_eq(e.msg, "the answer is not one of spore's");
	}
}

Test(ctl_http, answers_that_break_off)
{
	static const char *const answers[] = {
		"",
		"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"a\":",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"SSH-2.0-OpenSSH\r\n",
	};

	for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
		cr_expect_eq(get(answers[i], NULL), -ECONNRESET, "%s: %s", answers[i], e.msg);
		cr_expect(strstr(e.msg, path) && strstr(e.msg, "GET /x"), "%s", e.msg);
		cr_expect_str_eq(c.hint, "sporectl ps");
	}
}

Test(ctl_http, what_should_be_json_and_is_not)
{
	json_t *body;

	listen_with("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{\"a\":");
	cr_expect_eq(http_ask(&c, path, "/", &body, &e), -EBADMSG);
	hang_up();
	cr_expect_null(body);
	cr_expect(strstr(e.msg, "is not JSON"), "%s", e.msg);
}

Test(ctl_http, nobody_there)
{
	const struct http_call call = {.socket = path, .method = "GET", .path = "/"};
	struct http_answer a;

	unlink(path);
	cr_expect_eq(http_call(&c, &call, &a, &e), -ENOENT, "%s", e.msg);
	cr_expect(strstr(e.msg, "is gone"), "%s", e.msg);
	listen_with("");
	shutdown(listener, SHUT_RDWR);
	hang_up();
	cr_expect_eq(http_call(&c, &call, &a, &e), -ECONNREFUSED, "%s", e.msg);
	cr_expect_str_eq(c.hint, "sporectl ps");
}

/* --- line by line --- */

static char lines[256];
static int enough;

static int on_line(void *arg, const char *line)
{
	(void)arg;
	snprintf(lines + strlen(lines), sizeof(lines) - strlen(lines), "[%s]", line);
	return --enough == 0;
}

static int stream(const char *text, int wanted)
{
	const struct http_call call = {
		.socket = path, .method = "GET", .path = "/events", .line = on_line};
	int r;

	lines[0] = '\0';
	enough = wanted;
	listen_with(text);
	r = http_call(&c, &call, NULL, &e);
	hang_up();
	return r;
}

Test(ctl_http, lines_are_told_whole)
{
	const char *text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
			   "3\r\none\r\n5\r\n\ntwo\n\r\n6\r\n\nthree\r\n0\r\n\r\n";

	cr_assert_eq(stream(text, -1), 0, "%s", e.msg);
	cr_expect_str_eq(lines, "[one][two][]", "what has no end is no line");
	cr_assert_eq(stream(text, 2), 0, "%s", e.msg);
	cr_expect_str_eq(lines, "[one][two]", "the second one was enough");
}

Test(ctl_http, a_refused_stream_has_no_lines)
{
	cr_expect_eq(stream(reply("503 Busy", "{\"fault_message\":\n "
					      "\"full\"}"),
			    -1),
		     -EBADMSG);
	cr_expect_str_eq(e.msg, "full");
	cr_expect_str_eq(lines, "");
}

Test(ctl_http, hints_for_what_others_have_worded)
{
	cr_expect(strstr(hint_for("open '/dev/kvm': Permission denied"), "usermod"));
	cr_expect(strstr(hint_for("unknown field `vcpus`, expected one of `vcpu_count`"), "docs/"));
	cr_expect_null(hint_for("something new"));
}
