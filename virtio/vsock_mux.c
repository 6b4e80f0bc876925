/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "virtio/vsock_conn.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#define BACKLOG 128

/* Clients accepted in one turn of the loop. */
#define ACCEPT_TURN 32u

/* Ports of host-initiated connections, Firecracker's range. */
#define HOST_PORT_FIRST (1u << 30)
#define HOST_PORT_MASK	(HOST_PORT_FIRST - 1)

#define KEPT_SIZE \
	(VSOCK_BIG_SLOTS * VSOCK_BIG_ALLOC + (VSOCK_CONNS_MAX - VSOCK_BIG_SLOTS) * VSOCK_ALLOC)

/* --- a listening path --- */

static int set_path(struct sockaddr_un *a, const char *path)
{
	*a = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(a->sun_path))
		return -ENAMETOOLONG;
	strcpy(a->sun_path, path);
	return 0;
}

int vsock_listener_open(struct vsock_listener *l, const char *path, struct err *e)
{
	cleanup_fd int fd = -1;
	struct sockaddr_un addr;
	struct stat st;

	if (set_path(&addr, path) < 0)
		return err_set(e, ENAMETOOLONG, "'%s' is longer than %zu bytes", path,
			       sizeof(addr.sun_path) - 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_sys(e, "create a socket");
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_sys(e, "bind '%s'", path);
	if (listen(fd, BACKLOG) < 0 ||
	    fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0) {
		err_sys(e, "listen at '%s'", path);
		unlinkat(AT_FDCWD, path, 0);
		return -e->code;
	}
	*l = (struct vsock_listener){.fd = TAKE_FD(fd), .dev = st.st_dev, .ino = st.st_ino};
	return 0;
}

void vsock_listener_close(struct vsock_listener *l, const char *path)
{
	struct stat st;

	if (l->fd < 0)
		return;
	fd_close(&l->fd);
	/* Somebody may have put another socket there meanwhile. */
	if (fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) == 0 &&
	    st.st_dev == l->dev && st.st_ino == l->ino)
		unlinkat(AT_FDCWD, path, 0);
}

/* --- the table --- */

static struct vsock_conn **bucket(struct vsock *v, uint32_t host_port, uint32_t guest_port)
{
	uint32_t h = (host_port * 0x9e3779b1u) ^ (guest_port * 0x85ebca6bu);

	return &v->bucket[(h ^ h >> 16) % VSOCK_BUCKETS];
}

struct vsock_conn *vsock_mux_find(struct vsock *v, uint32_t host_port, uint32_t guest_port)
{
	struct vsock_conn *c = *bucket(v, host_port, guest_port);

	while (c && (c->host_port != host_port || c->guest_port != guest_port))
		c = c->chain;
	return c;
}

void vsock_mux_hash(struct vsock_conn *c)
{
	struct vsock_conn **b = bucket(c->v, c->host_port, c->guest_port);

	c->chain = *b;
	c->hashed = true;
	*b = c;
}

void vsock_mux_unhash(struct vsock_conn *c)
{
	struct vsock_conn **at = bucket(c->v, c->host_port, c->guest_port);

	if (!c->hashed)
		return;
	while (*at != c)
		at = &(*at)->chain;
	*at = c->chain;
	c->hashed = false;
}

struct vsock_conn *vsock_mux_add(struct vsock *v, enum vsock_conn_state state, int fd)
{
	/* The lowest free entry: those have the larger buffers. */
	for (unsigned w = 0; w < ARRAY_SIZE(v->used); w++) {
		unsigned i;

		if (v->used[w] == UINT64_MAX)
			continue;
		i = w * 64 + (unsigned)__builtin_ctzll(~v->used[w]);
		if (i >= VSOCK_CONNS_MAX)
			break;
		v->used[w] |= 1ull << i % 64;
		v->conn_count++;
		vsock_conn_init(v, &v->conn[i], state, fd);
		metric_inc(&v->count.conns_added);
		return &v->conn[i];
	}
	return NULL;
}

void vsock_mux_free(struct vsock_conn *c)
{
	struct vsock *v = c->v;
	size_t i = (size_t)(c - v->conn);

	loop_del(v->dev.env.loop, &c->host);
	fd_close(&c->host.fd);
	vsock_mux_wait(c, NULL);
	vsock_mux_unhash(c);
	if (c->queued)
		TAILQ_REMOVE(&v->ready, c, ready);
	/* The ring was used, at least in part: its pages go back. */
	if (c->kept_at || c->kept_len)
		madvise(c->kept, c->buf_alloc, MADV_DONTNEED);
	vsock_conn_init(v, c, VSOCK_FREE, -1);
	v->used[i / 64] &= ~(1ull << i % 64);
	v->conn_count--;
	metric_inc(&v->count.conns_removed);
}

uint32_t vsock_mux_host_port(struct vsock *v, uint32_t guest_port)
{
	uint32_t port;

	/* Ends: there are fewer connections than ports. */
	do {
		port = HOST_PORT_FIRST | (v->state.next_host_port++ & HOST_PORT_MASK);
	} while (vsock_mux_find(v, port, guest_port));
	return port;
}

void vsock_mux_drop_all(struct vsock *v)
{
	/* Not v->conn[].state: most entries have never been touched, and need no memory so far. */
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
		if (v->used[i / 64] >> i % 64 & 1)
			vsock_mux_free(&v->conn[i]);
	v->orphan_count = 0;
}

bool vsock_mux_settle(struct vsock *v)
{
	if (!v->dropped)
		return false;
	v->dropped = false;
	vsock_mux_drop_all(v);
	return true;
}

/* --- deadlines --- */

static void stop_waiting(struct vsock_conn *c)
{
	struct vsock_waits *w = c->waits;

	c->waits = NULL;
	TAILQ_REMOVE(&w->list, c, waiting);
	if (TAILQ_EMPTY(&w->list))
		loop_timer_clear(c->v->dev.env.loop, &w->timer);
}

void vsock_mux_wait(struct vsock_conn *c, struct vsock_waits *w)
{
	if (c->waits == w)
		return;
	if (c->waits)
		stop_waiting(c);
	c->waits = w;
	if (!w)
		return;
	/* The times are all the same, so the list is in order by itself. */
	if (TAILQ_EMPTY(&w->list))
		loop_timer_set(c->v->dev.env.loop, &w->timer, w->ns);
	c->deadline_ns = now_ns() + w->ns;
	TAILQ_INSERT_TAIL(&w->list, c, waiting);
}

static void deadline_passed(struct loop_timer *t)
{
	struct vsock_waits *w = CONTAINER_OF(t, struct vsock_waits, timer);
	struct vsock *v = t->arg;
	uint64_t now = now_ns();
	struct vsock_conn *c;

	vsock_mux_settle(v);
	while ((c = TAILQ_FIRST(&w->list)) && c->deadline_ns <= now) {
		stop_waiting(c);
		if (w == &v->news) {
			vsock_conn_insist(c);
			continue;
		}
		metric_inc(&v->count.conns_killed);
		vsock_conn_kill(c);
	}
	if (c)
		loop_timer_set(v->dev.env.loop, t, c->deadline_ns - now);
	vsock_pump(v);
}

/* --- host clients --- */

int vsock_mux_watch(struct vsock_conn *c)
{
	c->watched = EPOLLIN | EPOLLRDHUP;
	return loop_add(c->v->dev.env.loop, &c->host, c->watched | EPOLLET, NULL);
}

static void take_client(struct vsock *v, int fd)
{
	struct vsock_conn *c = vsock_mux_add(v, VSOCK_HANDSHAKE, fd);

	if (!c) {
		fd_close(&fd);
		metric_inc(&v->count.muxer_event_fails);
		log_warn("vsock: a host client is turned away: %u connections", v->conn_count);
	} else if (vsock_mux_watch(c) < 0) {
		metric_inc(&v->count.muxer_event_fails);
		vsock_mux_free(c);
	}
}

static void start_retry(struct vsock *v)
{
	if (!v->retry.armed)
		loop_timer_set(v->dev.env.loop, &v->retry, VSOCK_RETRY_NS);
}

/* Without file descriptors the listener stays readable: looked at again after a while. */
static void pause_listener(struct vsock *v, bool pause)
{
	v->listener_paused = pause;
	loop_mod(v->dev.env.loop, &v->listener, pause ? 0 : EPOLLIN);
	if (pause)
		start_retry(v);
}

static void clients_came(struct loop_source *s, uint32_t events)
{
	struct vsock *v = s->arg;

	(void)events;
	vsock_mux_settle(v);
	for (unsigned i = 0; i < ACCEPT_TURN; i++) {
		int fd = accept4(s->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			take_client(v, fd);
			continue;
		}
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
			metric_inc(&v->count.muxer_event_fails);
			log_warn("vsock: accept a host client: %s", strerror(errno));
			pause_listener(v, true);
		}
		break;
	}
}

/* --- requests of the guest --- */

/* 0: connected, -EAGAIN: the backlog is full, or no memory for now; other: nobody is there. */
static int connect_host(struct vsock_conn *c)
{
	char path[sizeof(c->v->uds_path) + sizeof("_4294967295")];
	struct sockaddr_un addr;
	int r;

	snprintf(path, sizeof(path), "%s_%u", c->v->uds_path, c->host_port);
	r = set_path(&addr, path);
	if (r < 0)
		return r;
	if (c->host.fd < 0)
		c->host.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->host.fd < 0)
		return errno == EMFILE || errno == ENFILE ? -EAGAIN : -errno;
	return connect(c->host.fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ? -errno : 0;
}

static void try_connect(struct vsock_conn *c)
{
	int r = connect_host(c);

	if (r == 0) {
		vsock_conn_connected(c);
	} else if (r == -EAGAIN) {
		vsock_mux_wait(c, &c->v->answers);
		start_retry(c->v);
	} else {
		vsock_conn_kill(c);
	}
}

void vsock_mux_request(struct vsock *v, const struct vsock_hdr *h)
{
	struct vsock_conn *c = vsock_mux_add(v, VSOCK_CONNECTING, -1);

	if (!c) {
		vsock_orphan(v, h);
		return;
	}
	c->host_port = h->dst_port;
	c->guest_port = h->src_port;
	vsock_mux_hash(c);
	vsock_conn_credit(c, h);
	try_connect(c);
}

static void try_again(struct loop_timer *t)
{
	struct vsock *v = t->arg;
	struct vsock_conn *c, *next;

	if (v->listener_paused)
		pause_listener(v, false);
	if (vsock_mux_settle(v))
		return;
	for (c = TAILQ_FIRST(&v->answers.list); c; c = next) {
		next = TAILQ_NEXT(c, waiting);
		if (c->state == VSOCK_CONNECTING)
			try_connect(c);
	}
	vsock_pump(v);
}

/* --- create and destroy --- */

static void again(struct loop_timer *t)
{
	struct vsock *v = t->arg;

	vsock_mux_settle(v);
	v->reset_unseen = false;
	vsock_pump(v);
}

static void woken(struct loop_source *s, uint32_t events)
{
	(void)events;
	fd_event_drain(s->fd);
	vsock_mux_settle(s->arg);
}

static int alloc_conns(struct vsock *v, struct err *e)
{
	uint8_t *kept = mmap(NULL, KEPT_SIZE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (kept == MAP_FAILED)
		return err_sys(e, "reserve buffers");
	v->kept = kept;
	v->conn = calloc(VSOCK_CONNS_MAX, sizeof(*v->conn));
	return v->conn ? 0 : err_set(e, ENOMEM, "out of memory");
}

static int watch(struct vsock *v, struct loop_source *s, int fd,
		 void (*ready)(struct loop_source *s, uint32_t events), struct err *e)
{
	*s = (struct loop_source){.fd = fd, .ready = ready, .arg = v, .lock = v->dev.env.lock};
	return loop_add(v->dev.env.loop, s, EPOLLIN, e);
}

static void init_waits(struct vsock *v, struct vsock_waits *w, uint64_t ns)
{
	TAILQ_INIT(&w->list);
	w->timer =
		(struct loop_timer){.expired = deadline_passed, .arg = v, .lock = v->dev.env.lock};
	w->ns = ns;
}

int vsock_mux_init(struct vsock *v, const struct vsock_setup *cfg, struct err *e)
{
	pthread_mutex_t *lock = v->dev.env.lock;
	int r, fd;

	v->listener.fd = v->wake.fd = -1;
	TAILQ_INIT(&v->ready);
	init_waits(v, &v->answers, VSOCK_TIMEOUT_NS);
	init_waits(v, &v->news, VSOCK_PATIENCE_NS);
	v->retry = (struct loop_timer){.expired = try_again, .arg = v, .lock = lock};
	v->again = (struct loop_timer){.expired = again, .arg = v, .lock = lock};
	if (strlen(cfg->uds_path) >= sizeof(v->uds_path))
		return err_set(e, ENAMETOOLONG, "uds_path is too long");
	strcpy(v->uds_path, cfg->uds_path);
	r = alloc_conns(v, e);
	if (r < 0)
		return r;
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return err_sys(e, "create an eventfd");
	r = watch(v, &v->wake, fd, woken, e);
	return r < 0 ? r : watch(v, &v->listener, cfg->listen_fd, clients_came, e);
}

void vsock_mux_finish(struct vsock *v)
{
	struct loop *loop = v->dev.env.loop;

	if (v->conn)
		vsock_mux_drop_all(v);
	loop_timer_clear(loop, &v->answers.timer);
	loop_timer_clear(loop, &v->news.timer);
	loop_timer_clear(loop, &v->retry);
	loop_timer_clear(loop, &v->again);
	loop_del(loop, &v->listener);
	loop_del(loop, &v->wake);
	fd_close(&v->wake.fd);
	free(v->conn);
	if (v->kept)
		munmap(v->kept, KEPT_SIZE);
}
