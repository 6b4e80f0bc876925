/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool: a daemon that keeps shells ready, and makes clones out of them for who asks on its socket
 * (docs/pool.md).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api-sock/server.h"
#include "ctl/launch.h"
#include "ctl/pool.h"
#include "ctl/verbs.h"
#include "vmm/base/fd.h"

#define SOCKET_NAME "pool.sock"
#define MAX_BODY    MIB(8)
/* Behind an answer, so that it is on its way. */
#define LATER_NS    500000
/* After shells that did not start. */
#define AGAIN_NS    5000000000

struct args {
	uint64_t size, fill, uid, gid;
	const char *socket, *shell, *jailer, *jail_base;
	struct ctl_list binds, jail_options;
	bool jail, pit;
};

#define AT(member) offsetof(struct args, member)

struct daemon {
	struct pool_config config;
	struct pool pool;
	struct loop loop;
	struct loop_source shells, signals;
	struct loop_timer later, again;
	struct server *server;
};

/* --- when nobody waits --- */

static void do_later(struct loop_timer *t)
{
	struct daemon *d = t->arg;

	pool_fill(&d->pool);
	if (d->pool.failures)
		loop_timer_set(&d->loop, &d->again, AGAIN_NS);
	/* One at a time: who comes meanwhile is served between two. */
	if (pool_reap(&d->pool))
		loop_timer_set(&d->loop, &d->later, 0);
}

/* What keeps shells from starting may have passed. */
static void try_again(struct loop_timer *t)
{
	struct daemon *d = t->arg;

	pool_try_again(&d->pool);
	loop_timer_set(&d->loop, &d->later, 0);
}

static void on_shells(struct loop_source *s, uint32_t events)
{
	struct daemon *d = s->arg;

	(void)events;
	pool_turn(&d->pool, 0);
	loop_timer_set(&d->loop, &d->later, LATER_NS);
}

static void on_signal(struct loop_source *s, uint32_t events)
{
	struct daemon *d = s->arg;
	struct signalfd_siginfo info;

	(void)events;
	if (read(s->fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGCHLD)
		loop_timer_set(&d->loop, &d->later, LATER_NS);
	else
		loop_stop(&d->loop);
}

/* --- requests --- */

static json_t *print_pool(const struct daemon *d)
{
	const struct pool *p = &d->pool;
	json_t *out = json_pack("{s:i, s:i, s:i, s:i}", "size", (int)p->config->size, "ready",
				(int)p->count[SHELL_READY], "starting",
				(int)(p->count[SHELL_STARTING] + p->count[SHELL_PRIMING]), "clones",
				(int)p->count[SHELL_CLONE]);

	if (p->config->snapshot)
		json_object_set_new(out, "snapshot", json_string(p->config->snapshot));
	if (p->failures)
		json_object_set_new(out, "error", json_string(p->last_error));
	return out;
}

static void handle(void *arg, const struct http_request *req, struct http_response *resp)
{
	struct daemon *d = arg;
	json_t *reply = NULL;
	struct err e;

	resp->status = 200;
	if (req->verb == HTTP_VERB_GET && strcmp(req->target, "/") == 0)
		reply = print_pool(d);
	else if (req->verb == HTTP_VERB_PUT && strcmp(req->target, "/clones") == 0)
		resp->status = claim_serve(&d->pool, req->body ? req->body : "", req->body_len,
					   &reply, &e);
	else
		resp->status = 404;
	if (resp->status == 404)
		err_set(&e, ENOENT, "GET / and PUT /clones are possible");
	if (resp->status != 200) {
		http_respond_fault(resp, resp->status, e.msg);
	} else {
		resp->body = reply ? json_dumps(reply, JSON_COMPACT) : NULL;
		if (!resp->body)
			http_respond_fault(resp, 500, "Out of memory.");
	}
	json_decref(reply);
	loop_timer_set(&d->loop, &d->later, LATER_NS);
}

/* --- start and end --- */

/* What --shell has to say for this snapshot, by asking spore. */
static int describe(const char *spore, const char *dir, bool pit, char *text, size_t size,
		    struct err *e)
{
	json_t *root = NULL, *meta, *item;
	char path[PATH_MAX];
	json_error_t where;
	unsigned devices = 0;
	FILE *out = NULL;
	int to[2], status;
	pid_t pid;
	size_t i;

	snprintf(path, sizeof(path), "%.*s/state", PATH_MAX - 8, dir);
	if (pipe(to) < 0)
		return err_sys(e, "make a pipe");
	pid = fork();
	if (pid == 0) {
		dup2(to[1], STDOUT_FILENO);
		close(to[0]);
		close(to[1]);
		execlp(spore, spore, "--describe-snapshot", path, "--json", (char *)NULL);
		_exit(127);
	}
	close(to[1]);
	out = fdopen(to[0], "re");
	root = out ? json_loadf(out, 0, &where) : NULL;
	if (out)
		fclose(out);
	if (pid > 0)
		waitpid(pid, &status, 0);
	meta = json_object_get(root, "snapshot");
	json_array_foreach(json_object_get(root, "sections"), i, item)
	{
		const char *tag = json_string_value(json_object_get(item, "tag"));

		devices += tag && strcmp(tag, "VIRT") == 0;
	}
	snprintf(text, size, "vcpus=%lld,mem_mib=%lld,devices=%u%s",
		 json_integer_value(json_object_get(meta, "vcpus")),
		 json_integer_value(json_object_get(meta, "mem_size_bytes")) >> 20, devices,
		 pit ? ",pit" : "");
	json_decref(root);
	return meta ? 0 : err_set(e, EINVAL, "'%s' is no snapshot that spore can read", path);
}

static int watch_signals(struct daemon *d, struct err *e)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	d->signals = (struct loop_source){
		.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), .ready = on_signal, .arg = d};
	return d->signals.fd < 0 ? err_sys(e, "make a signalfd")
				 : loop_add(&d->loop, &d->signals, EPOLLIN, e);
}

/* The first shell tells whether there can be any. */
static int wait_for_one(struct daemon *d, struct err *e)
{
	struct pool *p = &d->pool;

	pool_fill(p);
	while (!p->count[SHELL_READY] && !p->failures)
		pool_turn(p, 100);
	return p->count[SHELL_READY] ? 0 : err_set(e, ECHILD, "%s", p->last_error);
}

static int begin(struct daemon *d, const char *socket, struct err *e)
{
	const struct server_config server = {
		.path = socket,
		.max_body = MAX_BODY,
		.timeout_ns = SERVER_TIMEOUT_NS,
		.handle = handle,
		.arg = d,
	};
	int r = loop_init(&d->loop, e);

	d->later = (struct loop_timer){.expired = do_later, .arg = d};
	d->again = (struct loop_timer){.expired = try_again, .arg = d};
	if (r == 0)
		r = pool_init(&d->pool, &d->config, e);
	if (r == 0)
		r = watch_signals(d, e);
	if (r == 0)
		r = wait_for_one(d, e);
	if (r < 0)
		return r;
	d->shells = (struct loop_source){.fd = d->pool.loop.epfd, .ready = on_shells, .arg = d};
	r = loop_add(&d->loop, &d->shells, EPOLLIN, e);
	if (r < 0)
		return r;
	d->server = server_create(&d->loop, &server, e);
	return d->server ? 0 : -e->code;
}

static int serve(struct ctl *c, struct daemon *d, const char *socket, struct err *e)
{
	int r = begin(d, socket, e);

	if (r == 0) {
		puts(socket);
		fflush(stdout);
		ctl_note(c, "a pool of %u; SIGINT or SIGTERM ends it, and its clones go on",
			 d->config.size);
		loop_timer_set(&d->loop, &d->later, 0);
		r = loop_run(&d->loop);
	}
	server_destroy(d->server);
	pool_finish(&d->pool);
	return r;
}

static int configure(struct daemon *d, struct ctl *c, const struct args *a, const char *dir,
		     const char *shell, struct err *e)
{
	struct pool_config *p = &d->config;

	*p = (struct pool_config){
		.c = c,
		.size = (unsigned)MIN(a->size, (uint64_t)POOL_SIZE_MAX),
		.fill = (unsigned)MIN(a->fill, (uint64_t)POOL_SIZE_MAX),
		.shell = a->shell ? a->shell : shell,
		.snapshot = dir[0] ? dir : NULL,
		.jailer = a->jail ? a->jailer : NULL,
		.uid = a->uid,
		.gid = a->gid,
		.jail_base = a->jail_base,
		.binds = &a->binds,
		.jail_options = &a->jail_options,
	};
	if (a->size < 1 || a->size > POOL_SIZE_MAX)
		return err_set(e, EINVAL, "--size: need 1..%u", POOL_SIZE_MAX);
	if (a->fill < 1)
		return err_set(e, EINVAL, "--fill: need 1 or more");
	if (!dir[0] && !a->shell)
		return err_set(e, EINVAL, "needs DIRECTORY or --shell");
	if (a->jail && (!a->uid || !a->gid))
		return err_set(e, EINVAL, "--jail: needs --uid and --gid");
	return 0;
}

int verb_pool(struct ctl *c, int argc, char **argv)
{
	static const struct ctl_option options[] = {
		{"size", 'n', CTL_NUMBER, AT(size), "K", "shells that are kept ready [8]"},
		{"fill", 0, CTL_NUMBER, AT(fill), "N", "how many may be starting at once [2]"},
		{"socket", 0, CTL_TEXT, AT(socket), "PATH",
		 "where claims come [STATE-DIR/pool.sock]"},
		{"shell", 0, CTL_TEXT, AT(shell), "SPEC",
		 "as spore's --shell; without DIRECTORY claims name the snapshot"},
		{"pit", 0, CTL_FLAG, AT(pit), NULL, "the snapshot has an i8254"},
		{"jail", 0, CTL_FLAG, AT(jail), NULL, "start them by spore-jailer, as root"},
		{"uid", 0, CTL_NUMBER, AT(uid), "N", "user of the jailed"},
		{"gid", 0, CTL_NUMBER, AT(gid), "N", "group of the jailed"},
		{"jail-base", 0, CTL_TEXT, AT(jail_base), "DIR", "where jails are [/srv/jailer]"},
		{"bind", 0, CTL_LIST, AT(binds), "HOST:JAIL[:rw]", "what jails show too; again"},
		{"jail-option", 0, CTL_LIST, AT(jail_options), "WORD",
		 "another for spore-jailer; again"},
		{0},
	};
	static const struct ctl_usage usage = {
		.arguments = "[DIRECTORY]",
		.options = options,
		.max = 1,
		.examples = "sporectl pool --size 16 warm\n"
			    "curl --unix-socket /run/spore/pool.sock -X PUT http://pool/clones \\\n"
			    "  -d '{\"n\": 3, \"template\": {\"id\": \"web-{n}\"}}'\n"
			    "sudo sporectl pool --jail --uid 4001 --gid 4001 warm\n",
	};
	struct args a = {.size = 8, .fill = 2, .jail_base = "/srv/jailer"};
	char dir[PATH_MAX] = "", shell[128] = "", socket[PATH_MAX], spore[512], jailer[520];
	struct daemon *d = calloc(1, sizeof(*d));
	struct err e;
	int r = 0;

	if (!d || !ctl_parse(c, &usage, &argc, &argv, &a)) {
		free(d);
		return c->exit_code;
	}
	launch_find(spore, sizeof(spore));
	snprintf(jailer, sizeof(jailer), "%s-jailer", spore);
	a.jailer = jailer;
	snprintf(socket, sizeof(socket), "%s/" SOCKET_NAME, c->state_dir);
	if (argc && !realpath(argv[0], dir))
		r = err_sys(&e, "snapshot '%s'", argv[0]);
	if (r == 0)
		r = configure(d, c, &a, dir, shell, &e);
	d->config.spore = spore;
	if (r == 0 && !a.shell)
		r = describe(spore, dir, a.pit, shell, sizeof(shell), &e);
	if (r == 0)
		r = serve(c, d, a.socket ? a.socket : socket, &e);
	free(d);
	return r < 0 ? ctl_fail(c, &e) : 0;
}
