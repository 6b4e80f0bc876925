/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server on a real socket and a real loop, with the clients in the same thread. Nothing waits:
 * a turn of the loop is made for as long as something is ready.
 */
#define _GNU_SOURCE
#include "api-sock/server.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/lib/scratch.h"
#include "vmm/base/fd.h"

#define MAX_BODY 1000

static struct scratch scratch;
static struct loop loop;
static struct server *server;
static struct server_config config;
static unsigned handled;
static uint64_t ticket;	  /* of GET /later */
static size_t reply_size; /* of the answer to GET /big */
static struct err e;

/* A stream of `stream_len` letters, each reader at its own position. */
static size_t stream_len;

static size_t read_stream(void *arg, uint64_t *at, char *buf, size_t size)
{
	size_t n = MIN(size, stream_len - (size_t)*at);

	(void)arg;
	for (size_t i = 0; i < n; i++)
		buf[i] = (char)('a' + (*at + i) % 26);
	*at += n;
	return n;
}

static const struct http_stream stream = {.read = read_stream};

/* Answers with what it was asked: {"<method> <target>": "<body>"}. */
static void handle(void *arg, const struct http_request *req, struct http_response *resp)
{
	size_t big = strcmp(req->target, "/big") == 0 ? reply_size : 0;

	(void)arg;
	handled++;
	resp->status = 200;
	for (unsigned i = 0; i < req->passed_count; i++)
		fd_event_signal(req->passed[i]);
	if (strcmp(req->target, "/later") == 0) {
		ticket = req->ticket;
		resp->later = true;
		return;
	}
	if (strcmp(req->target, "/stream") == 0) {
		resp->stream = &stream;
		resp->type = "text/plain";
		return;
	}
	if (asprintf(&resp->body, "{\"%s %s\":\"%.*s%0*d\"}", req->method, req->target,
		     (int)req->body_len, req->body ? req->body : "", (int)big, 0) < 0)
		abort();
}

static bool take_passed = true;

static bool takes(void *arg)
{
	(void)arg;
	return take_passed;
}

static void start(void)
{
	signal(SIGPIPE, SIG_IGN); /* as main() does */
	scratch_init(&scratch);
	cr_assert_eq(loop_init(&loop, NULL), 0);
	config = (struct server_config){
		.path = scratch_path(&scratch, "api.sock"),
		.max_body = MAX_BODY,
		.timeout_ns = SERVER_TIMEOUT_NS,
		.handle = handle,
		.takes_passed = takes,
	};
	server = server_create(&loop, &config, &e);
	cr_assert_not_null(server, "%s", e.msg);
}

static void finish(void)
{
	server_destroy(server);
	loop_finish(&loop);
	scratch_finish(&scratch);
}

TestSuite(server, .init = start, .fini = finish, .timeout = 60);

static void turn(void)
{
	for (int i = 0; i < 50; i++)
		cr_assert_eq(loop_run_once(&loop, 0), 0);
}

static int client(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	strcpy(addr.sun_path, config.path);
	cr_assert_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static void say(int fd, const char *text)
{
	cr_assert_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* Everything that has come so far; *closed says whether the server has ended the stream. */
static const char *hear(int fd, bool *closed)
{
	static char text[65536];
	size_t len = 0;
	ssize_t n;

	turn();
	while ((n = recv(fd, text + len, sizeof(text) - 1 - len, 0)) > 0)
		len += (size_t)n;
	text[len] = '\0';
	*closed = n == 0;
	return text;
}

static unsigned count(const char *text, const char *part)
{
	unsigned n = 0;

	while ((text = strstr(text, part))) {
		n++;
		text++;
	}
	return n;
}

/* Asks and expects an answer with `part` in it on a connection that stays open. */
static void ask(int fd, const char *text, const char *part)
{
	const char *answer;
	bool closed;

	say(fd, text);
	answer = hear(fd, &closed);
	cr_expect(strstr(answer, part), "'%s' is not in '%s'", part, answer);
	cr_expect_not(closed);
}

/* Asks and expects one last answer. */
static void ask_last(int fd, const char *text, const char *part)
{
	const char *answer;
	bool closed;

	say(fd, text);
	answer = hear(fd, &closed);
	cr_expect(strstr(answer, part), "'%s' is not in '%s'", part, answer);
	cr_expect(strstr(answer, "Connection: close\r\n"));
	cr_expect_eq(count(answer, "HTTP/1.1 "), 1);
	cr_expect(closed);
	close(fd);
	turn();
}

Test(server, the_socket_is_ours_alone)
{
	struct stat st;

	cr_assert_eq(stat(config.path, &st), 0);
	cr_expect(S_ISSOCK(st.st_mode));
	cr_expect_eq(st.st_mode & 0777, 0600);
}

Test(server, keep_alive_and_bodies)
{
	int fd = client();

	ask(fd, "GET /a HTTP/1.1\r\n\r\n", "{\"GET /a\":\"0\"}");
	ask(fd, "PUT /b HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi", "{\"PUT /b\":\"hi0\"}");
	ask(fd, "PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
	    "{\"PUT /c\":\"hi0\"}");
	ask(fd, "GET /d HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi", "{\"GET /d\":\"hi0\"}");
	close(fd);
}

Test(server, connection_close_and_http_1_0)
{
	ask_last(client(), "GET /a HTTP/1.1\r\nConnection: close\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
		 "GET /a");
	ask_last(client(), "GET /a HTTP/1.0\r\n\r\n", "GET /a");
	cr_expect_eq(handled, 2);
}

Test(server, every_split_of_a_request)
{
	static const char text[] = "PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody";
	int fd = client();

	for (size_t cut = 1; cut < sizeof(text) - 1; cut++) {
		char head[sizeof(text)];
		bool closed;

		memcpy(head, text, cut);
		head[cut] = '\0';
		say(fd, head);
		cr_expect_str_eq(hear(fd, &closed), "", "cut at %zu", cut);
		ask(fd, text + cut, "{\"PUT /x\":\"body0\"}");
	}
	close(fd);
}

Test(server, byte_by_byte)
{
	static const char text[] = "PUT /x HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody";
	const char *answer;
	bool closed;
	int fd = client();

	for (size_t i = 0; i < sizeof(text) - 1; i++) {
		say(fd, (char[]){text[i], '\0'});
		turn();
	}
	answer = hear(fd, &closed);
	cr_expect(strstr(answer, "{\"PUT /x\":\"body0\"}"));
	close(fd);
}

Test(server, pipelined_requests_are_answered_in_order)
{
	char text[20000], *p = text;
	const char *answer;
	bool closed;
	int fd = client();

	for (int i = 0; i < 200; i++)
		p += sprintf(p, "PUT /%d HTTP/1.1\r\nContent-Length: 3\r\n\r\n%03d", i, i);
	say(fd, text);
	answer = hear(fd, &closed);
	for (int i = 0; i < 200; i++) {
		char part[64];

		sprintf(part, "{\"PUT /%d\":\"%03d0\"}", i, i);
		answer = strstr(answer, part);
		cr_assert_not_null(answer, "%s", part);
	}
	close(fd);
}

Test(server, a_client_that_does_not_read_costs_one_answer)
{
	static const char ask_big[] = "GET /big HTTP/1.1\r\n\r\n";
	size_t total = 0;
	unsigned before;
	bool closed;
	int fd = client();

	reply_size = 60000;
	for (int i = 0; i < 100; i++)
		say(fd, ask_big);
	turn();
	before = handled;
	turn();
	cr_expect_eq(handled, before, "nothing goes on while nobody reads");
	cr_expect_lt(handled, 20);
	for (int i = 0; i < 10000 && total < 100 * (reply_size + 100); i++)
		total += strlen(hear(fd, &closed));
	cr_expect_eq(handled, 100);
	cr_expect_gt(total, 100 * reply_size);
	cr_expect_not(closed);
	close(fd);
}

Test(server, errors_of_the_grammar_end_the_connection)
{
	ask_last(client(), "nonsense\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n");
	ask_last(client(), "GET / HTTP/1.1\r\nbad header\r\n\r\n",
		 "{\"fault_message\":\"Malformed");
	ask_last(client(), "PUT / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", "limit of 1000 bytes");
	cr_expect_eq(handled, 0);
	ask(client(), "GET /a HTTP/1.1\r\n\r\n", "GET /a");
}

Test(server, good_requests_before_a_bad_one_are_answered)
{
	const char *answer;
	bool closed;
	int fd = client();

	say(fd, "GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\nrubbish\r\n\r\n");
	answer = hear(fd, &closed);
	cr_expect_eq(count(answer, "HTTP/1.1 200"), 2);
	cr_expect_eq(count(answer, "HTTP/1.1 400"), 1);
	cr_expect(closed);
	close(fd);
}

Test(server, an_oversized_body_is_refused_and_the_rest_thrown_away)
{
	char junk[4096];
	const char *answer;
	bool closed;
	int fd = client();

	memset(junk, 'x', sizeof(junk));
	say(fd, "PUT / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n");
	for (int i = 0; i < 24; i++) {
		cr_expect_eq(send(fd, junk, sizeof(junk), MSG_NOSIGNAL), (ssize_t)sizeof(junk),
			     "a client that sends all of its body must not be cut off");
		turn();
	}
	answer = hear(fd, &closed);
	cr_expect(strstr(answer, "HTTP/1.1 413 Content Too Large"));
	cr_expect_eq(count(answer, "HTTP/1.1"), 1);
	cr_expect(closed);
	cr_expect_eq(handled, 0);
	close(fd);
}

Test(server, a_body_of_exactly_the_limit)
{
	char text[MAX_BODY + 100];
	int n = sprintf(text, "PUT / HTTP/1.1\r\nContent-Length: %d\r\n\r\n", MAX_BODY);

	memset(text + n, 'x', MAX_BODY);
	text[n + MAX_BODY] = '\0';
	ask(client(), text, "xxx0\"}");
}

Test(server, expect_100_continue)
{
	int fd = client();

	ask(fd, "PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
	    "HTTP/1.1 100 Continue\r\n\r\n");
	ask(fd, "hi", "{\"PUT /a\":\"hi0\"}");
	ask_last(fd, "PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9999\r\n\r\n",
		 "413");
}

Test(server, the_17th_connection_is_turned_away)
{
	int fd[SERVER_CONNECTIONS_MAX], more;
	const char *answer;
	bool closed;

	for (int i = 0; i < SERVER_CONNECTIONS_MAX; i++) {
		fd[i] = client();
		ask(fd[i], "GET /a HTTP/1.1\r\n\r\n", "GET /a");
	}
	more = client();
	answer = hear(more, &closed);
	cr_expect(strstr(answer, "HTTP/1.1 503 Service Unavailable"));
	cr_expect(strstr(answer, "Too many open connections"));
	cr_expect(closed);
	close(more);
	for (int i = 0; i < SERVER_CONNECTIONS_MAX; i++)
		ask(fd[i], "GET /b HTTP/1.1\r\n\r\n", "GET /b");
	close(fd[3]);
	turn();
	fd[3] = client();
	ask(fd[3], "GET /c HTTP/1.1\r\n\r\n", "GET /c");
	for (int i = 0; i < SERVER_CONNECTIONS_MAX; i++)
		close(fd[i]);
}

Test(server, clients_that_go_away)
{
	bool closed;
	int fd;

	close(client());
	turn();
	fd = client();
	say(fd, "PUT /a HTTP/1.1\r\nContent-Le");
	turn();
	close(fd);
	turn();
	fd = client();
	say(fd, "PUT /a HTTP/1.1\r\nContent-Length: 10\r\n\r\nhal");
	close(fd);
	turn();
	/* With the answer on its way: no SIGPIPE. */
	reply_size = 1000000;
	fd = client();
	say(fd, "GET /big HTTP/1.1\r\n\r\n");
	turn();
	close(fd);
	turn();
	/* One that only ends its own direction still gets its answer. */
	fd = client();
	say(fd, "GET /a HTTP/1.1\r\n\r\n");
	shutdown(fd, SHUT_WR);
	cr_expect(strstr(hear(fd, &closed), "GET /a"));
	cr_expect(closed);
	close(fd);
	turn();
	cr_expect_null(loop.timers, "nobody is left to wait for");
	for (int i = 0; i < SERVER_CONNECTIONS_MAX; i++)
		ask(client(), "GET /a HTTP/1.1\r\n\r\n", "GET /a");
}

/* A server that waits for 1 ns: whoever has to be waited for is late at once. */
static void restart_impatient(void)
{
	server_destroy(server);
	config.timeout_ns = 1;
	server = server_create(&loop, &config, &e);
	cr_assert_not_null(server);
}

Test(server, slow_requests_time_out)
{
	bool closed;
	int fd;

	restart_impatient();
	fd = client();
	ask(fd, "GET /a HTTP/1.1\r\n\r\n", "GET /a");
	cr_expect_null(loop.timers, "an idle connection costs no timer");
	say(fd, "GET /b HTT");
	cr_expect(strstr(hear(fd, &closed), "HTTP/1.1 408 Request Timeout"));
	cr_expect(closed);
	close(fd);
	turn();
	cr_expect_null(loop.timers);
}

Test(server, timers_run_only_for_what_is_half_done)
{
	int fd = client();

	turn();
	cr_expect_null(loop.timers);
	say(fd, "GET /b HTT");
	turn();
	cr_expect_not_null(loop.timers);
	ask(fd, "P/1.1\r\n\r\n", "GET /b");
	cr_expect_null(loop.timers);
	close(fd);
}

Test(server, answers_nobody_reads_time_out)
{
	bool closed = false;
	size_t total = 0;
	int fd;

	restart_impatient();
	reply_size = 1000000;
	fd = client();
	say(fd, "GET /big HTTP/1.1\r\n\r\n");
	turn();
	for (int i = 0; i < 1000 && !closed; i++)
		total += strlen(hear(fd, &closed));
	cr_expect(closed);
	cr_expect_lt(total, reply_size);
	close(fd);
	cr_expect_null(loop.timers);
}

Test(server, a_path_in_use_is_told_from_a_stale_one)
{
	struct server_config other = config;
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd;

	cr_expect_null(server_create(&loop, &other, &e));
	cr_expect_eq(e.code, EADDRINUSE);
	cr_expect(strstr(e.msg, "in use by a running process"));
	cr_expect(strstr(e.msg, config.path));
	turn();
	ask(client(), "GET /a HTTP/1.1\r\n\r\n", "GET /a");

	other.path = scratch_path(&scratch, "stale");
	strcpy(addr.sun_path, other.path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	cr_expect_null(server_create(&loop, &other, &e));
	cr_expect(strstr(e.msg, "nobody listens"));
	cr_expect_eq(access(other.path, F_OK), 0, "what is not ours stays");

	other.path = scratch_file(&scratch, "file", "x", 1);
	cr_expect_null(server_create(&loop, &other, &e));
	cr_expect_eq(access(other.path, F_OK), 0);
}

Test(server, impossible_paths)
{
	struct server_config other = config;
	char long_path[200];

	memset(long_path, 'x', sizeof(long_path));
	long_path[199] = '\0';
	other.path = long_path;
	cr_expect_null(server_create(&loop, &other, &e));
	cr_expect(strstr(e.msg, "107 bytes"));
	other.path = "";
	cr_expect_null(server_create(&loop, &other, &e));
	other.path = "/no/such/directory/s";
	cr_expect_null(server_create(&loop, &other, &e));
	cr_expect(strstr(e.msg, "/no/such/directory/s"));
	cr_expect_eq(e.code, ENOENT);
}

Test(server, removes_only_its_own_file)
{
	server_destroy(server);
	cr_expect_neq(access(config.path, F_OK), 0);
	server = server_create(&loop, &config, &e);
	cr_assert_not_null(server);
	unlink(config.path);
	scratch_file(&scratch, "api.sock", "somebody else's", 5);
	server_destroy(server);
	server = NULL;
	cr_expect_eq(access(config.path, F_OK), 0);
}

Test(server, no_descriptor_left)
{
	struct rlimit old, none;
	bool closed;
	int first = client(), fd;

	ask(first, "GET /a HTTP/1.1\r\n\r\n", "GET /a");
	fd = client();
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
	none = old;
	none.rlim_cur = (rlim_t)fd + 1;
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	say(fd, "GET /b HTTP/1.1\r\n\r\n");
	cr_expect_str_eq(hear(fd, &closed), "");
	/* It is not woken over and over by a connection that it cannot take, but tries again. */
	cr_expect_not_null(loop.timers);
	ask(first, "GET /a HTTP/1.1\r\n\r\n", "GET /a");
	close(first);
	cr_expect(strstr(hear(fd, &closed), "GET /b"), "the first one's descriptor is free");
	cr_expect_null(loop.timers);
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
	close(fd);
}

Test(server, a_stream_comes_in_chunks_as_it_grows)
{
	const char *answer;
	bool closed;
	int fd = client();

	stream_len = 3;
	say(fd, "GET /stream HTTP/1.1\r\n\r\n");
	answer = hear(fd, &closed);
	cr_expect(strstr(answer, "Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n"));
	cr_expect(strstr(answer, "\r\n\r\n0003\r\nabc\r\n"), "%s", answer);
	cr_expect_null(strstr(answer, "Content-Length"));
	cr_expect_str_eq(hear(fd, &closed), "");
	stream_len = 5;
	server_wake(server);
	cr_expect_str_eq(hear(fd, &closed), "0002\r\nde\r\n");
	server_wake(server);
	cr_expect_str_eq(hear(fd, &closed), "");
	cr_expect_not(closed);
	cr_expect_null(loop.timers, "and may last");
	stream_len = 6;
	server_destroy(server);
	server = NULL;
	cr_expect_str_eq(hear(fd, &closed), "0001\r\nf\r\n0\r\n\r\n");
	cr_expect(closed);
	close(fd);
}

Test(server, a_stream_to_http_1_0_has_no_chunks)
{
	const char *answer;
	bool closed;
	int fd = client();

	stream_len = 3;
	say(fd, "GET /stream HTTP/1.0\r\n\r\n");
	answer = hear(fd, &closed);
	cr_expect(strstr(answer, "\r\n\r\nabc"));
	cr_expect_null(strstr(answer, "chunked"));
	cr_expect_not(closed);
	shutdown(fd, SHUT_WR);
	turn();
	stream_len = 4;
	server_wake(server);
	cr_expect_str_eq(hear(fd, &closed), "d", "who only ends its own direction goes on reading");
	cr_expect_not(closed);
	close(fd);
	turn();
}

Test(server, a_stream_that_nobody_reads_stops_nobody)
{
	int slow = client(), fd = client();
	size_t total = 0;
	bool closed;

	stream_len = 3;
	say(slow, "GET /stream HTTP/1.0\r\n\r\n");
	total += strlen(hear(slow, &closed));
	stream_len = 2000000;
	server_wake(server);
	turn();
	ask(fd, "GET /a HTTP/1.1\r\n\r\n", "GET /a");
	cr_expect_null(loop.timers);
	for (int i = 0; i < 10000 && total < stream_len; i++)
		total += strlen(hear(slow, &closed));
	cr_expect_geq(total, stream_len);
	cr_expect_not(closed);
	close(slow);
	close(fd);
}

Test(server, streams_leave_room_for_requests)
{
	int fd[SERVER_STREAMS_MAX];
	bool closed;

	for (int i = 0; i < SERVER_STREAMS_MAX; i++) {
		fd[i] = client();
		say(fd[i], "GET /stream HTTP/1.1\r\n\r\n");
		cr_expect(strstr(hear(fd[i], &closed), "200 OK"));
	}
	ask(client(), "GET /stream HTTP/1.1\r\n\r\n", "Too many open streams.");
	close(fd[0]);
	turn();
	ask(client(), "GET /stream HTTP/1.1\r\n\r\n", "200 OK");
	for (int i = 1; i < SERVER_STREAMS_MAX; i++)
		close(fd[i]);
}

Test(server, versions_of_http)
{
	ask_last(client(), "GET / HTTP/1.2\r\n\r\n", "Only HTTP versions 1.0 and 1.1");
	ask_last(client(), "GET / HTTP/2.0\r\n\r\n", "HTTP/1.1 400");
	ask_last(client(), "GET / HTTP/0.9\r\n\r\n", "HTTP/1.1 400");
	ask_last(client(), "GET /\r\n\r\n", "HTTP/1.1 400");
	cr_expect_eq(handled, 0);
}

Test(server, a_flood_of_requests_leaves_others_their_turn)
{
	char text[4000] = "";
	bool closed;
	int flood = client(), fd = client();

	turn();
	for (int i = 0; i < 150; i++)
		strcat(text, "GET /f HTTP/1.1\r\n\r\n");
	say(flood, text);
	say(fd, "GET /other HTTP/1.1\r\n\r\n");
	cr_assert_eq(loop_run_once(&loop, 0), 0);
	cr_assert_eq(loop_run_once(&loop, 0), 0);
	cr_expect_lt(handled, 40);
	cr_expect(strstr(hear(fd, &closed), "GET /other"));
	cr_expect_eq(count(hear(flood, &closed), "GET /f"), 150);
	close(flood);
	close(fd);
}

static void restart(void)
{
	server_destroy(server);
	server = server_create(&loop, &config, &e);
	cr_assert_not_null(server, "%s", e.msg);
}

Test(server, mode_and_owner_of_the_file)
{
	struct stat st;

	config.mode = 0660;
	config.chown = true;
	config.uid = UINT32_MAX;
	config.gid = getgid();
	restart();
	cr_assert_eq(stat(config.path, &st), 0);
	cr_expect_eq(st.st_mode & 0777, 0660);
	cr_expect_eq(st.st_gid, getgid());
	if (geteuid() != 0)
		return;
	config.uid = 12345;
	config.gid = 54321;
	restart();
	cr_assert_eq(stat(config.path, &st), 0);
	cr_expect(st.st_uid == 12345 && st.st_gid == 54321);
}

Test(server, only_those_on_the_list)
{
	config.allow[0] = (struct server_peer){.id = getuid() + 1};
	config.allow[1] = (struct server_peer){.is_group = true, .id = getgid() + 1};
	config.allow_count = 2;
	restart();
	ask_last(client(), "", "HTTP/1.1 403 Forbidden\r\n");
	config.allow[1].id = getgid();
	restart();
	ask(client(), "GET /a HTTP/1.1\r\n\r\n", "GET /a");
	config.allow[1] = (struct server_peer){.id = getuid()};
	restart();
	ask(client(), "GET /a HTTP/1.1\r\n\r\n", "GET /a");
	cr_expect_eq(handled, 2);
}

Test(server, a_socket_of_the_parent)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(addr.sun_path, scratch_path(&scratch, "inherited"));
	cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	server_destroy(server);
	config.inherited = true;
	config.fd = fd;
	config.path = NULL;
	server = server_create(&loop, &config, &e);
	cr_expect_null(server, "it does not listen");
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	unlink(addr.sun_path);
	cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	cr_assert_eq(listen(fd, 5), 0);
	config.fd = fd;
	server = server_create(&loop, &config, &e);
	cr_assert_not_null(server, "%s", e.msg);
	config.path = addr.sun_path;
	ask(client(), "GET /a HTTP/1.1\r\n\r\n", "GET /a");
	server_destroy(server);
	server = NULL;
	cr_expect_eq(access(addr.sun_path, F_OK), 0, "its file is not ours");
	config.fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	cr_expect_null(server_create(&loop, &config, &e));
	cr_expect(strstr(e.msg, "not a listening Unix stream socket"));
}

/* --- answers that come later, descriptors that come along --- */

static void answer(uint64_t to, const char *text)
{
	struct http_response r = {.status = 200, .body = strdup(text)};

	server_answer(server, to, &r);
	cr_expect_null(r.body);
}

Test(server, an_answer_may_come_later)
{
	int fd = client(), other = client();
	bool closed;

	say(fd, "GET /later HTTP/1.1\r\n\r\nGET /next HTTP/1.1\r\n\r\n");
	cr_expect_str_empty(hear(fd, &closed));
	cr_expect_not(closed);
	cr_expect_eq(handled, 1, "the next one waits for it");
	say(other, "GET /other HTTP/1.1\r\n\r\n");
	cr_expect(strstr(hear(other, &closed), "GET /other"), "others do not");
	answer(ticket + 100, "{}");
	cr_expect_str_empty(hear(fd, &closed));
	answer(ticket, "{\"a\":1}");
	cr_expect(strstr(hear(fd, &closed), "{\"a\":1}"));
	cr_expect_not(closed);
	cr_expect_eq(handled, 3, "and now it is served");
	answer(ticket, "{}");
	cr_expect_str_empty(hear(fd, &closed));
	close(fd);
	close(other);
}

Test(server, whoever_waits_for_a_late_answer_may_go)
{
	int fd = client();
	bool closed;

	say(fd, "GET /later HTTP/1.1\r\nConnection: close\r\n\r\n");
	turn();
	close(fd);
	turn();
	answer(ticket, "{}");
	fd = client();
	say(fd, "GET /later HTTP/1.1\r\nConnection: close\r\n\r\n");
	turn();
	answer(ticket, "{}");
	cr_expect(strstr(hear(fd, &closed), "200 OK"));
	cr_expect(closed);
	close(fd);
}

/* `count` times the eventfd, with a piece of a request. */
static void pass(int fd, const char *text, int what, unsigned count)
{
	struct iovec iov = {(void *)(uintptr_t)text, strlen(text)};
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(64 * sizeof(int))];
	} control = {0};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = CMSG_SPACE(count * sizeof(int)),
	};
	struct cmsghdr *m = CMSG_FIRSTHDR(&msg);

	m->cmsg_level = SOL_SOCKET;
	m->cmsg_type = SCM_RIGHTS;
	m->cmsg_len = CMSG_LEN(count * sizeof(int));
	for (unsigned i = 0; i < count; i++)
		memcpy(CMSG_DATA(m) + i * sizeof(int), &what, sizeof(int));
	cr_assert_eq(sendmsg(fd, &msg, 0), (ssize_t)iov.iov_len);
}

static uint64_t count_of(int event)
{
	uint64_t n = 0;

	return read(event, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

Test(server, descriptors_come_with_a_request_and_are_closed_behind_it)
{
	int event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), fd = client(), before, after;
	bool closed;

	turn();
	before = dup(0);
	close(before);
	pass(fd, "PUT /a HTTP/1.1\r\nContent-Le", event, 2);
	turn();
	cr_expect_eq(count_of(event), 0);
	pass(fd, "ngth: 0\r\n\r\n", event, 1);
	cr_expect(strstr(hear(fd, &closed), "200 OK"));
	cr_expect_eq(count_of(event), 3);
	say(fd, "PUT /b HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
	cr_expect(strstr(hear(fd, &closed), "200 OK"));
	cr_expect_eq(count_of(event), 0, "the next one has none");
	/* More than there is room for, in one message and in several. */
	pass(fd, "P", event, 64);
	pass(fd, "UT /c HTTP/1.1\r\nContent-Length: 0\r\n\r\n", event, 10);
	cr_expect(strstr(hear(fd, &closed), "200 OK"));
	cr_expect_eq(count_of(event), SERVER_PASSED_MAX);
	after = dup(0);
	close(after);
	cr_expect_eq(after, before, "all of them have been closed");
	/* None at all: the kernel closes them. */
	take_passed = false;
	pass(fd, "PUT /e HTTP/1.1\r\nContent-Length: 0\r\n\r\n", event, 3);
	cr_expect(strstr(hear(fd, &closed), "200 OK"));
	cr_expect_eq(count_of(event), 0);
	take_passed = true;
	/* A client that is gone before its request is complete. */
	pass(fd, "PUT /d", event, 5);
	turn();
	close(fd);
	turn();
	after = dup(0);
	close(after);
	cr_expect_leq(after, before);
	close(event);
}
