/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "api-sock/server.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api-sock/listener.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#define INPUT_SIZE	4096
#define ACCEPT_RETRY_NS 1000000000ull
#define STREAM_PIECE	4096
#define REQUESTS_A_TURN 8

struct conn {
	struct server *server;
	struct loop_source source; /* owns its fd */
	struct http_reader *http;
	char in[INPUT_SIZE]; /* what in_pos..in_len holds is not parsed yet */
	size_t in_len, in_pos;
	char *out; /* being sent; NULL: nothing */
	size_t out_len, out_pos;
	bool last;	      /* no request is read any more */
	bool more;	      /* its requests in in[] wait for the turn of others to end */
	bool shut;	      /* our end is closed; what still comes is thrown away */
	uint64_t deadline_ns; /* 0: idle */
	const struct http_stream *stream; /* the answer goes on; nothing is read any more */
	uint64_t stream_at;
	bool chunked;
	uint64_t ticket;	       /* the answer comes later; 0: none is waited for */
	bool keep_alive;	       /* after it */
	int passed[SERVER_PASSED_MAX]; /* came with the request that is being read; owned */
	unsigned passed_count;
};

struct server {
	struct loop *loop;
	struct server_config config;
	struct listener listener;
	struct loop_source source; /* of it */
	uint64_t accept_again_ns;  /* no descriptor was left: not before then. 0: accepting */
	struct loop_timer timer;
	struct conn *conn[SERVER_CONNECTIONS_MAX];
	uint64_t tickets; /* given */
};

static void arm_timer(struct server *s)
{
	uint64_t first = s->accept_again_ns ? s->accept_again_ns : UINT64_MAX;
	uint64_t now;

	for (unsigned i = 0; i < SERVER_CONNECTIONS_MAX; i++)
		if (s->conn[i] && s->conn[i]->more)
			first = 0;
		else if (s->conn[i] && s->conn[i]->deadline_ns)
			first = MIN(first, s->conn[i]->deadline_ns);
	loop_timer_clear(s->loop, &s->timer);
	if (first == UINT64_MAX)
		return;
	now = now_ns();
	loop_timer_set(s->loop, &s->timer, first > now ? first - now : 0);
}

static void accept_watch(struct server *s, bool on)
{
	s->accept_again_ns = on ? 0 : now_ns() + ACCEPT_RETRY_NS;
	loop_mod(s->loop, &s->source, on ? EPOLLIN : 0);
	arm_timer(s);
}

static void close_passed(struct conn *c)
{
	for (unsigned i = 0; i < c->passed_count; i++)
		fd_close(&c->passed[i]);
	c->passed_count = 0;
}

static void conn_destroy(struct conn *c)
{
	struct server *s = c->server;

	for (unsigned i = 0; i < SERVER_CONNECTIONS_MAX; i++)
		if (s->conn[i] == c)
			s->conn[i] = NULL;
	loop_del(s->loop, &c->source);
	fd_close(&c->source.fd);
	http_destroy(c->http);
	close_passed(c);
	free(c->out);
	free(c);
	/* Its descriptor may be what another client is waiting for. */
	if (s->accept_again_ns)
		accept_watch(s, true);
	arm_timer(s);
}

/* Sends what it can. -errno when the connection is dead. */
static int conn_flush(struct conn *c)
{
	while (c->out) {
		ssize_t n = fd_write(c->source.fd, c->out + c->out_pos, c->out_len - c->out_pos);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		c->out_pos += (size_t)n;
		if (c->out_pos == c->out_len) {
			free(TAKE(c->out));
			c->deadline_ns = 0;
		}
	}
	/*
	 * Closing at once would destroy what the client has not read yet if it is still sending,
	 * so only our direction is closed until it has heard us (RFC 9112 section 9.6).
	 */
	if (c->last && !c->shut) {
		c->shut = true;
		shutdown(c->source.fd, SHUT_WR);
	}
	return 0;
}

static int conn_send(struct conn *c, char *text, size_t len)
{
	if (!text)
		return -ENOMEM;
	c->out = text;
	c->out_len = len;
	c->out_pos = 0;
	return conn_flush(c);
}

/* Sends what the stream has, for as long as the client takes it. */
static int conn_pump(struct conn *c)
{
	int r = 0;

	while (r == 0 && c->stream && !c->out) {
		/* A chunk: its size in four digits, CR LF, the bytes, CR LF. */
		const size_t head = c->chunked ? 6 : 0;
		char *text = malloc(STREAM_PIECE);
		size_t n;

		if (!text)
			return -ENOMEM;
		n = c->stream->read(c->stream->arg, &c->stream_at, text + head,
				    STREAM_PIECE - head - 2);
		if (n == 0) {
			free(text);
			return 0;
		}
		if (c->chunked) {
			char size[8];

			snprintf(size, sizeof(size), "%04x\r\n", (unsigned)(n & 0xffff));
			memcpy(text, size, head);
			memcpy(text + head + n, "\r\n", 2);
			n += head + 2;
		}
		r = conn_send(c, text, n);
	}
	return r;
}

static unsigned count_streams(const struct server *s)
{
	unsigned n = 0;

	for (unsigned i = 0; i < SERVER_CONNECTIONS_MAX; i++)
		n += s->conn[i] && s->conn[i]->stream;
	return n;
}

static int conn_respond(struct conn *c, struct http_response *r)
{
	size_t len;
	char *text;

	if (r->stream && count_streams(c->server) == SERVER_STREAMS_MAX) {
		r->stream = NULL;
		r->type = NULL;
		http_respond_fault(r, 503, "Too many open streams.");
	}
	if (r->stream) {
		c->stream = r->stream;
		c->chunked = r->chunked;
		r->keep_alive = false;
		text = http_print(r, &len);
		return conn_send(c, text, len);
	}
	c->last = !r->keep_alive;
	c->deadline_ns = 0;
	text = http_print(r, &len);
	return conn_send(c, text, len);
}

static int conn_handle(struct conn *c)
{
	struct http_request req = *http_get(c->http);
	struct http_response r = {.keep_alive = req.keep_alive,
				  .chunked = req.chunks,
				  .no_body = strcmp(req.method, "HEAD") == 0};

	req.ticket = ++c->server->tickets;
	req.passed = c->passed;
	req.passed_count = c->passed_count;
	c->server->config.handle(c->server->config.arg, &req, &r);
	http_next(c->http);
	close_passed(c);
	if (!r.later)
		return conn_respond(c, &r);
	c->ticket = req.ticket;
	c->keep_alive = r.keep_alive;
	return 0;
}

/* Whether the next request may be looked at. */
static bool conn_reads(const struct conn *c)
{
	return !c->out && !c->last && !c->stream && !c->ticket;
}

/*
 * Serves what is in the input buffer, but only so many requests: then the others have their turn.
 * -errno when the connection is dead.
 */
static int conn_serve(struct conn *c)
{
	unsigned turns = REQUESTS_A_TURN;
	int r = 0;

	while (r == 0 && conn_reads(c) && c->in_pos < c->in_len && turns > 0) {
		struct http_response resp = {0};
		size_t used;

		switch (http_feed(c->http, c->in + c->in_pos, c->in_len - c->in_pos, &used)) {
		case HTTP_MORE:
			c->in_pos = c->in_len;
			break;
		case HTTP_READY:
			c->in_pos += used;
			turns--;
			r = conn_handle(c);
			break;
		case HTTP_BAD:
			http_error(c->http, &resp);
			r = conn_respond(c, &resp);
			break;
		}
	}
	c->more = conn_reads(c) && c->in_pos < c->in_len;
	if (r == 0 && !c->out && !c->last && http_partial(c->http) &&
	    http_wants_continue(c->http)) {
		static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";

		r = conn_send(c, strdup(go_on), sizeof(go_on) - 1);
	}
	return r;
}

/* The descriptors of a message; those there is no room for are closed. */
static void take_passed(struct conn *c, struct msghdr *msg)
{
	for (struct cmsghdr *m = CMSG_FIRSTHDR(msg); m; m = CMSG_NXTHDR(msg, m)) {
		const int *fd = (const int *)(const void *)CMSG_DATA(m);
		size_t count = (m->cmsg_len - CMSG_LEN(0)) / sizeof(*fd);

		if (m->cmsg_level != SOL_SOCKET || m->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int passed = fd[i];

			if (c->passed_count < SERVER_PASSED_MAX)
				c->passed[c->passed_count++] = passed;
			else
				fd_close(&passed);
		}
	}
}

/* One read, with the descriptors that come along. */
static ssize_t read_passed(struct conn *c)
{
	struct iovec iov = {.iov_base = c->in, .iov_len = sizeof(c->in)};
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(c->passed))];
	} control;
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf),
	};
	ssize_t n = recvmsg(c->source.fd, &msg, MSG_CMSG_CLOEXEC);

	if (n > 0)
		take_passed(c, &msg);
	return n;
}

/* 1 when something came, 0 when nothing was there, -errno when the connection is over. */
static int conn_receive(struct conn *c)
{
	const struct server_config *config = &c->server->config;
	bool passed = config->takes_passed && config->takes_passed(config->arg);
	ssize_t n = passed ? read_passed(c) : fd_read(c->source.fd, c->in, sizeof(c->in));

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -ECONNRESET;
	c->in_pos = 0;
	c->in_len = c->shut ? 0 : (size_t)n;
	return 1;
}

/* Sets what to wait for next, and until when. */
static void conn_wait(struct conn *c)
{
	bool waiting = (c->out && !c->stream) || c->shut || http_partial(c->http);
	uint32_t input = c->stream || c->ticket || c->more ? 0 : EPOLLIN;

	loop_mod(c->server->loop, &c->source, c->out ? EPOLLOUT : input);
	if (!waiting)
		c->deadline_ns = 0;
	else if (!c->deadline_ns)
		c->deadline_ns = now_ns() + c->server->config.timeout_ns;
	arm_timer(c->server);
}

static void conn_ready(struct loop_source *source, uint32_t events)
{
	struct conn *c = source->arg;
	bool gone = (c->stream || c->ticket) && events & EPOLLHUP;
	int r = gone ? -ECONNRESET : conn_flush(c);

	if (r == 0)
		r = conn_pump(c);
	if (r == 0 && !c->out && !c->stream && !c->ticket && (c->in_pos == c->in_len || c->shut))
		r = conn_receive(c);
	if (r >= 0)
		r = conn_serve(c);
	if (r == 0)
		r = conn_pump(c);
	if (r < 0)
		conn_destroy(c);
	else
		conn_wait(c);
}

static void conn_timeout(struct conn *c)
{
	struct http_response resp = {0};

	if (c->out || c->last) {
		conn_destroy(c);
		return;
	}
	http_respond_fault(&resp, 408, "The request did not arrive in time.");
	if (conn_respond(c, &resp) < 0)
		conn_destroy(c);
	else
		conn_wait(c);
}

/* Takes the socket over: *fd becomes -1. Not when there is no memory. */
static void conn_create(struct server *s, int *fd)
{
	struct conn *c = calloc(1, sizeof(*c));
	unsigned i = 0;

	if (!c)
		return;
	while (s->conn[i])
		i++;
	s->conn[i] = c;
	c->server = s;
	c->source = (struct loop_source){.fd = *fd, .ready = conn_ready, .arg = c};
	c->http = http_create(s->config.max_body);
	if (!c->http || loop_add(s->loop, &c->source, EPOLLIN, NULL) < 0) {
		c->source.fd = -1;
		conn_destroy(c);
		return;
	}
	*fd = -1;
}

static bool server_full(const struct server *s)
{
	for (unsigned i = 0; i < SERVER_CONNECTIONS_MAX; i++)
		if (!s->conn[i])
			return false;
	return true;
}

/* Best effort: a client that is turned away is not waited for. */
static void turn_away(int fd, int status, const char *why)
{
	struct http_response r = {0};
	size_t len;
	cleanup_free char *text = NULL;

	http_respond_fault(&r, status, why);
	text = http_print(&r, &len);
	if (text && fd_write(fd, text, len) < 0)
		log_debug("turn a client away: %s", strerror(errno));
}

static void listener_ready(struct loop_source *source, uint32_t events)
{
	struct server *s = source->arg;
	cleanup_fd int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd < 0) {
		/* The connection stays in the queue and would wake us over and over. */
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			log_warn("accept an API connection: %s", strerror(errno));
			accept_watch(s, false);
		}
		return;
	}
	if (!listener_admits(&s->config, fd))
		turn_away(fd, 403, "This user may not use the API.");
	else if (server_full(s))
		turn_away(fd, 503, "Too many open connections.");
	else
		conn_create(s, &fd);
}

static void timer_expired(struct loop_timer *t)
{
	struct server *s = t->arg;
	uint64_t now = now_ns();

	if (s->accept_again_ns && s->accept_again_ns <= now)
		accept_watch(s, true);
	for (unsigned i = 0; i < SERVER_CONNECTIONS_MAX; i++) {
		struct conn *c = s->conn[i];

		if (c && c->more)
			conn_ready(&c->source, 0);
		else if (c && c->deadline_ns && c->deadline_ns <= now)
			conn_timeout(c);
	}
	arm_timer(s);
}

static int server_listen(struct server *s, struct err *e)
{
	int r = listener_open(&s->listener, &s->config, e);

	if (r < 0)
		return r;
	s->config.path = s->listener.path; /* the caller's may go */
	s->source = (struct loop_source){.fd = s->listener.fd, .ready = listener_ready, .arg = s};
	return loop_add(s->loop, &s->source, EPOLLIN, e);
}

struct server *server_create(struct loop *loop, const struct server_config *config, struct err *e)
{
	struct server *s = calloc(1, sizeof(*s));

	if (!s) {
		err_set(e, ENOMEM, "create the API server: out of memory");
		return NULL;
	}
	s->loop = loop;
	s->config = *config;
	s->timer = (struct loop_timer){.expired = timer_expired, .arg = s};
	if (server_listen(s, e) < 0) {
		server_destroy(s);
		return NULL;
	}
	return s;
}

void server_answer(struct server *s, uint64_t ticket, struct http_response *resp)
{
	for (unsigned i = 0; i < SERVER_CONNECTIONS_MAX; i++) {
		struct conn *c = s->conn[i];

		if (!c || c->ticket != ticket)
			continue;
		c->ticket = 0;
		resp->keep_alive = c->keep_alive;
		if (conn_respond(c, resp) < 0) {
			conn_destroy(c);
			return;
		}
		c->more = conn_reads(c) && c->in_pos < c->in_len;
		conn_wait(c);
		return;
	}
	free(TAKE(resp->body));
}

void server_wake(struct server *s)
{
	for (unsigned i = 0; i < SERVER_CONNECTIONS_MAX; i++) {
		struct conn *c = s->conn[i];

		if (!c || !c->stream)
			continue;
		if (conn_pump(c) < 0)
			conn_destroy(c);
		else
			conn_wait(c);
	}
}

static void conn_end_stream(struct conn *c)
{
	static const char end[] = "0\r\n\r\n"; /* the empty chunk */

	if (c->chunked && !c->out)
		(void)!fd_write(c->source.fd, end, sizeof(end) - 1);
}

void server_destroy(struct server *s)
{
	if (!s)
		return;
	server_wake(s);
	for (unsigned i = 0; i < SERVER_CONNECTIONS_MAX; i++) {
		if (s->conn[i] && s->conn[i]->stream)
			conn_end_stream(s->conn[i]);
		if (s->conn[i])
			conn_destroy(s->conn[i]);
	}
	loop_timer_clear(s->loop, &s->timer);
	loop_del(s->loop, &s->source);
	listener_close(&s->listener);
	free(s);
}
