/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "api-sock/server.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#define INPUT_SIZE	4096
#define ACCEPT_RETRY_NS 1000000000ull

struct conn {
	struct server *server;
	struct loop_source source; /* owns its fd */
	struct http_reader *http;
	char in[INPUT_SIZE]; /* what in_pos..in_len holds is not parsed yet */
	size_t in_len, in_pos;
	char *out; /* being sent; NULL: nothing */
	size_t out_len, out_pos;
	bool last;	      /* no request is read any more */
	bool shut;	      /* our end is closed; what still comes is thrown away */
	uint64_t deadline_ns; /* 0: idle */
};

struct server {
	struct loop *loop;
	struct server_config config;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	bool bound;
	dev_t dev; /* of the socket's file, with ino */
	ino_t ino;
	struct loop_source listener; /* owns its fd */
	uint64_t accept_again_ns;    /* no descriptor was left: not before then. 0: accepting */
	struct loop_timer timer;
	struct conn *conn[SERVER_CONNECTIONS_MAX];
};

static void arm_timer(struct server *s)
{
	uint64_t first = s->accept_again_ns ? s->accept_again_ns : UINT64_MAX;
	uint64_t now;

	for (unsigned i = 0; i < SERVER_CONNECTIONS_MAX; i++)
		if (s->conn[i] && s->conn[i]->deadline_ns)
			first = MIN(first, s->conn[i]->deadline_ns);
	loop_timer_clear(s->loop, &s->timer);
	if (first == UINT64_MAX)
		return;
	now = now_ns();
	loop_timer_set(s->loop, &s->timer, first > now ? first - now : 0);
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
	free(c->out);
	free(c);
	arm_timer(s);
}

/* Sends what it can. -errno when the connection is dead. */
static int conn_flush(struct conn *c)
{
	while (c->out) {
		ssize_t n = send(c->source.fd, c->out + c->out_pos, c->out_len - c->out_pos,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

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

static int conn_respond(struct conn *c, struct http_response *r)
{
	size_t len;
	char *text;

	c->last = !r->keep_alive;
	c->deadline_ns = 0;
	text = http_print(r, &len);
	return conn_send(c, text, len);
}

static int conn_handle(struct conn *c)
{
	const struct http_request *req = http_get(c->http);
	struct http_response r = {.keep_alive = req->keep_alive,
				  .no_body = strcmp(req->method, "HEAD") == 0};

	c->server->config.handle(c->server->config.arg, req, &r);
	http_next(c->http);
	return conn_respond(c, &r);
}

/* Serves what is in the input buffer. -errno when the connection is dead. */
static int conn_serve(struct conn *c)
{
	int r = 0;

	while (r == 0 && !c->out && !c->last && c->in_pos < c->in_len) {
		struct http_response resp = {0};
		size_t used;

		switch (http_feed(c->http, c->in + c->in_pos, c->in_len - c->in_pos, &used)) {
		case HTTP_MORE:
			c->in_pos = c->in_len;
			break;
		case HTTP_READY:
			c->in_pos += used;
			r = conn_handle(c);
			break;
		case HTTP_BAD:
			http_error(c->http, &resp);
			r = conn_respond(c, &resp);
			break;
		}
	}
	if (r == 0 && !c->out && !c->last && http_partial(c->http) &&
	    http_wants_continue(c->http)) {
		static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";

		r = conn_send(c, strdup(go_on), sizeof(go_on) - 1);
	}
	return r;
}

/* 1 when something came, 0 when nothing was there, -errno when the connection is over. */
static int conn_receive(struct conn *c)
{
	ssize_t n = recv(c->source.fd, c->in, sizeof(c->in), MSG_DONTWAIT);

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
	bool waiting = c->out || c->shut || http_partial(c->http);

	loop_mod(c->server->loop, &c->source, c->out ? EPOLLOUT : EPOLLIN);
	if (!waiting)
		c->deadline_ns = 0;
	else if (!c->deadline_ns)
		c->deadline_ns = now_ns() + c->server->config.timeout_ns;
	arm_timer(c->server);
}

static void conn_ready(struct loop_source *source, uint32_t events)
{
	struct conn *c = source->arg;
	int r = conn_flush(c);

	(void)events;
	if (r == 0 && !c->out && (c->in_pos == c->in_len || c->shut))
		r = conn_receive(c);
	if (r >= 0)
		r = conn_serve(c);
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

static int conn_create(struct server *s, int fd)
{
	struct conn *c = calloc(1, sizeof(*c));
	unsigned i = 0;

	if (!c)
		return -ENOMEM;
	while (s->conn[i])
		i++;
	s->conn[i] = c;
	c->server = s;
	c->source = (struct loop_source){.fd = fd, .ready = conn_ready, .arg = c};
	c->http = http_create(s->config.max_body);
	if (!c->http || loop_add(s->loop, &c->source, EPOLLIN, NULL) < 0) {
		c->source.fd = -1;
		conn_destroy(c);
		return -ENOMEM;
	}
	return 0;
}

static bool server_full(const struct server *s)
{
	for (unsigned i = 0; i < SERVER_CONNECTIONS_MAX; i++)
		if (!s->conn[i])
			return false;
	return true;
}

/* Best effort: a client that is turned away is not waited for. */
static void turn_away(int fd)
{
	struct http_response r = {0};
	size_t len;
	cleanup_free char *text = NULL;

	http_respond_fault(&r, 503, "Too many open connections.");
	text = http_print(&r, &len);
	if (text && send(fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_debug("turn a client away: %s", strerror(errno));
}

static void accept_watch(struct server *s, bool on)
{
	s->accept_again_ns = on ? 0 : now_ns() + ACCEPT_RETRY_NS;
	loop_mod(s->loop, &s->listener, on ? EPOLLIN : 0);
	arm_timer(s);
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
	if (server_full(s))
		turn_away(fd);
	else if (conn_create(s, fd) == 0)
		fd = -1;
}

static void timer_expired(struct loop_timer *t)
{
	struct server *s = t->arg;
	uint64_t now = now_ns();

	if (s->accept_again_ns && s->accept_again_ns <= now)
		accept_watch(s, true);
	for (unsigned i = 0; i < SERVER_CONNECTIONS_MAX; i++)
		if (s->conn[i] && s->conn[i]->deadline_ns && s->conn[i]->deadline_ns <= now)
			conn_timeout(s->conn[i]);
	arm_timer(s);
}

/* Says whether a socket that is in the way is alive. */
static int explain_in_use(const struct sockaddr_un *addr, struct err *e)
{
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd >= 0 && connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0)
		return err_set(e, EADDRINUSE,
			       "API socket '%s' is in use by a running process; choose another "
			       "path with --api-sock",
			       addr->sun_path);
	return err_set(e, EADDRINUSE,
		       "API socket '%s' exists, but nobody listens on it; remove it or choose "
		       "another path with --api-sock",
		       addr->sun_path);
}

static int server_bind(struct server *s, struct err *e)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct stat st;
	mode_t mask;
	int r;

	memcpy(addr.sun_path, s->path, sizeof(s->path));
	mask = umask(0177);
	r = bind(s->listener.fd, (struct sockaddr *)&addr, sizeof(addr));
	umask(mask);
	if (r < 0 && errno == EADDRINUSE)
		return explain_in_use(&addr, e);
	if (r < 0)
		return err_sys(e, "create API socket '%s'", s->path);
	s->bound = true;
	if (stat(s->path, &st) < 0)
		return err_sys(e, "stat API socket '%s'", s->path);
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	if (listen(s->listener.fd, SERVER_CONNECTIONS_MAX) < 0)
		return err_sys(e, "listen on API socket '%s'", s->path);
	return 0;
}

static int server_open(struct server *s, struct err *e)
{
	const char *path = s->config.path;
	int r;

	if (strlen(path) == 0 || strlen(path) >= sizeof(s->path))
		return err_set(e, ENAMETOOLONG, "API socket path '%s': 1..%zu bytes are possible",
			       path, sizeof(s->path) - 1);
	strcpy(s->path, path);
	s->config.path = s->path;
	s->listener.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->listener.fd < 0)
		return err_sys(e, "create API socket '%s'", path);
	r = server_bind(s, e);
	return r < 0 ? r : loop_add(s->loop, &s->listener, EPOLLIN, e);
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
	s->listener = (struct loop_source){.fd = -1, .ready = listener_ready, .arg = s};
	s->timer = (struct loop_timer){.expired = timer_expired, .arg = s};
	if (server_open(s, e) < 0) {
		server_destroy(s);
		return NULL;
	}
	return s;
}

/* Somebody may have removed our file and another process bound the same path since. */
static void server_unlink(struct server *s)
{
	struct stat st;

	if (s->bound && lstat(s->path, &st) == 0 && st.st_dev == s->dev && st.st_ino == s->ino)
		unlink(s->path);
}

void server_destroy(struct server *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < SERVER_CONNECTIONS_MAX; i++)
		if (s->conn[i])
			conn_destroy(s->conn[i]);
	loop_timer_clear(s->loop, &s->timer);
	server_unlink(s);
	loop_del(s->loop, &s->listener);
	fd_close(&s->listener.fd);
	free(s);
}
