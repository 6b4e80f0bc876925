/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table tests/data/api-cases.txt against the real server and the real routes, over real
 * sockets; its head tells the format. The microVM is never really started: its phase is set.
 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "api-sock/route.h"
#include "api-sock/server.h"
#include "tests/lib/scratch.h"

#define MAX_BODY 51200

static struct scratch s;
static struct loop loop;
static struct vm vm;
static struct metrics metrics;
static struct api api;
static struct server *server;
static char path[108];
static const char *kernel, *disk;
static unsigned line_number;

static void fresh(void)
{
	metrics_finish(&metrics);
	vm.phase = VM_NOT_STARTED;
	vm_finish(&vm);
	vm_init(&vm, &loop, "cases");
	metrics_init(&metrics, &vm);
}

static void start(void)
{
	struct server_config config = {
		.max_body = MAX_BODY,
		.timeout_ns = SERVER_TIMEOUT_NS,
		.handle = route_handle,
		.arg = &api,
	};
	struct err e;

	signal(SIGPIPE, SIG_IGN); /* as main() does */
	scratch_init(&s);
	cr_assert_eq(loop_init(&loop, NULL), 0);
	vm_init(&vm, &loop, "cases");
	metrics_init(&metrics, &vm);
	api = (struct api){.vm = &vm, .metrics = &metrics};
	log_set_level(LOG_OFF);
	kernel = scratch_kernel(&s, "kernel");
	disk = scratch_file(&s, "disk", "0123456789", 10);
	snprintf(path, sizeof(path), "%s/s", s.dir);
	config.path = path;
	server = server_create(&loop, &config, &e);
	cr_assert_not_null(server, "%s", e.msg);
}

static void finish(void)
{
	server_destroy(server);
	metrics_finish(&metrics);
	vm.phase = VM_NOT_STARTED;
	vm_finish(&vm);
	loop_finish(&loop);
	scratch_finish(&s);
}

TestSuite(api_cases, .init = start, .fini = finish, .timeout = 120);

/* A text that grows; what it holds may be zero bytes too. */
struct bytes {
	char *at;
	size_t len, cap;
};

static void append(struct bytes *b, const char *p, size_t n)
{
	if (b->len + n + 1 > b->cap) {
		b->cap = (b->len + n + 1) * 2;
		b->at = realloc(b->at, b->cap);
	}
	memcpy(b->at + b->len, p, n);
	b->len += n;
	b->at[b->len] = '\0';
}

static void expand(struct bytes *b, const char *p, bool escapes);

/* "%(N*text)": text N times. Returns what follows. */
static const char *append_repeated(struct bytes *b, const char *p, bool escapes)
{
	char *star;
	unsigned long n = strtoul(p, &star, 10);
	size_t len = strcspn(star + 1, ")");
	char text[32];

	cr_assert(*star == '*' && star[1 + len] == ')', "line %u", line_number);
	snprintf(text, sizeof(text), "%.*s", (int)len, star + 1);
	while (n-- > 0)
		expand(b, text, escapes);
	return star + len + 2;
}

/* $K, $D, $T; %(N*text); and \r \n \xHH when `escapes`. */
static void expand(struct bytes *b, const char *p, bool escapes)
{
	while (*p) {
		const char *value = strncmp(p, "$K", 2) == 0   ? kernel
				    : strncmp(p, "$D", 2) == 0 ? disk
				    : strncmp(p, "$T", 2) == 0 ? s.dir
							       : NULL;
		char hex[3] = {0};

		if (value) {
			append(b, value, strlen(value));
			p += 2;
		} else if (strncmp(p, "%(", 2) == 0) {
			p = append_repeated(b, p + 2, escapes);
		} else if (escapes && *p == '\\' && p[1] == 'x') {
			memcpy(hex, p + 2, 2);
			append(b, &(char){(char)strtoul(hex, NULL, 16)}, 1);
			p += 4;
		} else if (escapes && *p == '\\') {
			append(b, p[1] == 'r' ? "\r" : p[1] == 'n' ? "\n" : p + 1, 1);
			p += 2;
		} else {
			append(b, p++, 1);
		}
	}
}

static void turn(void)
{
	/* Enough for what one send() may bring. */
	for (int i = 0; i < 30; i++)
		cr_assert_eq(loop_run_once(&loop, 0), 0);
}

/* Sends all of it, in pieces of `step` bytes, and reads what is answered. */
static void talk(const struct bytes *ask, size_t step, struct bytes *answer)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	char buf[4096];
	ssize_t n;

	strcpy(addr.sun_path, path);
	cr_assert_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	for (size_t at = 0; at < ask->len;) {
		n = send(fd, ask->at + at, MIN(step, ask->len - at), MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN)
			break;
		at += n < 0 ? 0 : (size_t)n;
		turn();
		while ((n = recv(fd, buf, sizeof(buf), 0)) > 0)
			append(answer, buf, (size_t)n);
	}
	close(fd);
	turn();
}

/* One answer at *p, which is moved behind it. Its status goes to the end of `statuses`. */
static void check_answer(const char **p, char *statuses, size_t size, char *last, size_t last_size)
{
	const char *head = *p, *body = strstr(head, "\r\n\r\n"), *length;
	size_t len = 0, used = strlen(statuses);
	json_t *json;

	cr_assert(body && strncmp(head, "HTTP/1.1 ", 9) == 0, "line %u: %s", line_number, head);
	body += 4;
	length = strcasestr(head, "\r\nContent-Length: ");
	if (length && length < body)
		len = strtoul(length + 18, NULL, 10);
	cr_assert_leq(len, strlen(body), "line %u: body cut short", line_number);
	snprintf(statuses + used, size - used, "%s%.3s", used ? "+" : "", head + 9);
	snprintf(last, last_size, "%.*s", (int)len, body);
	*p = body + len;
	if (len == 0)
		return;
	json = json_loadb(body, len, JSON_REJECT_DUPLICATES, NULL);
	cr_expect_not_null(json, "line %u: no JSON: %.*s", line_number, (int)len, body);
	if (strncmp(head + 9, "200", 3) != 0)
		cr_expect(json_object_size(json) == 1 &&
				  json_is_string(json_object_get(json, "fault_message")),
			  "line %u: %.*s", line_number, (int)len, body);
	json_decref(json);
}

static void check_case(const char *want, const char *text, const struct bytes *ask, size_t step)
{
	struct bytes answer = {0};
	char statuses[256] = "", last[4096] = "";
	const char *p;

	append(&answer, "", 0);
	talk(ask, step, &answer);
	p = answer.at;
	while (*p)
		check_answer(&p, statuses, sizeof(statuses), last, sizeof(last));
	cr_expect_str_eq(statuses, want, "line %u: %s, expected %s: %s", line_number, statuses,
			 want, last);
	cr_expect(!text || strstr(last, text), "line %u: '%s' is not in '%s'", line_number, text,
		  last);
	free(answer.at);
}

/* "METHOD TARGET [BODY]" as a request. */
static void build_request(struct bytes *b, char *line)
{
	char *target = strchr(line, ' '), *body;
	struct bytes expanded = {0};
	char head[64];

	cr_assert_not_null(target, "line %u", line_number);
	body = strchr(target + 1, ' ');
	if (body)
		*body++ = '\0';
	append(&expanded, "", 0);
	expand(&expanded, body ? body : "", false);
	expand(b, line, false);
	snprintf(head, sizeof(head), " HTTP/1.1\r\nContent-Length: %zu\r\n\r\n", expanded.len);
	append(b, head, body ? strlen(head) : 0);
	if (!body)
		append(b, " HTTP/1.1\r\n\r\n", 13);
	append(b, expanded.at, expanded.len);
	free(expanded.at);
}

static void run_case(char *line)
{
	char *text = strstr(line, " => "), *request = strchr(line, ' ');
	struct bytes ask = {0};

	cr_assert_not_null(request, "line %u", line_number);
	*request++ = '\0';
	if (text) {
		*text = '\0';
		text += 4;
	}
	if (strncmp(request, "RAW ", 4) == 0)
		expand(&ask, request + 4, true);
	else
		build_request(&ask, request);
	check_case(line, text, &ask, 65536);
	/* A short one that is refused as a whole is so too when it comes byte by byte. */
	if (strcmp(line, "400") == 0 && ask.len < 400)
		check_case(line, text, &ask, 7);
	free(ask.at);
}

static void set_state(const char *name)
{
	if (strcmp(name, "@fresh") == 0)
		fresh();
	else if (strcmp(name, "@before") == 0)
		vm.phase = VM_NOT_STARTED;
	else if (strcmp(name, "@running") == 0)
		vm.phase = VM_RUNNING;
	else if (strcmp(name, "@paused") == 0)
		vm.phase = VM_PAUSED;
	else
		cr_assert_fail("line %u: %s", line_number, name);
}

Test(api_cases, table)
{
	FILE *f = fopen("tests/data/api-cases.txt", "re");
	unsigned cases = 0;
	char *line = NULL;
	size_t cap = 0;

	cr_assert_not_null(f, "run the tests from the top of the tree");
	line_number = 0;
	while (getline(&line, &cap, f) >= 0) {
		line_number++;
		line[strcspn(line, "\n")] = '\0';
		if (line[0] == '@') {
			set_state(line);
		} else if (line[0] && line[0] != '#') {
			run_case(line);
			cases++;
		}
	}
	free(line);
	fclose(f);
	cr_expect_geq(cases, 300, "%u cases", cases);
}
