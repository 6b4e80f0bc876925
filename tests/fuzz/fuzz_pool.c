/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Anybody's request to a pool of clones, and shells that answer anything: a monitor that was taken over
 * by its guest talks to the pool, which is root.
 *
 * Byte 0: how many shells are ready; bit 7: every other one answers well. Byte 1: how much of an
 * answer comes at once. Byte 2: how long it is, in eights; the answer; the rest is the request.
 *
 * What must hold: no crash, no leak; a refusal has a message; each clone has an error or a process,
 * and no process is two of them; nothing but one's own shell is killed; what is told is printable.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#include "ctl/pool_shell.h"
#include "tests/fuzz/input.h"

static int kill_shell(pid_t pid, int sig);
/* What a shell answers is for a function that is private there. */
#define kill kill_shell
#include "ctl/pool_shell.c" /* NOLINT(bugprone-suspicious-include) */
#undef kill

#define FIRST_PID 1000000

static struct pool pool;
static struct program answer;
static size_t at_once;
static bool some_are_good;
static int peer[POOL_CLONES_MAX + 8]; /* by the shell's number; -1: it has hung up */
static size_t said[POOL_CLONES_MAX + 8];

static int kill_shell(pid_t pid, int sig)
{
	must(sig == SIGKILL && pid >= FIRST_PID && pid < FIRST_PID + (pid_t)pool.next_number,
	     "a shell is killed");
	return 0;
}

/* --- what is not tried here --- */

int vms_check_name(const char *name, struct err *e)
{
	return *name && strlen(name) <= VMS_NAME_MAX && !strchr(name, '/')
		       ? 0
		       : err_set(e, EINVAL, "a name");
}

int vms_give_name(struct ctl *c, struct vms_vm *vm, const char *name, struct err *e)
{
	(void)c;
	for (const struct pool_shell *s = pool.all; s; s = s->next)
		if (strcmp(s->vm.name, name) == 0)
			return err_set(e, EEXIST, "in use");
	must(strlen(name) <= VMS_NAME_MAX, "a name that was judged");
	snprintf(vm->name, sizeof(vm->name), "%s", name);
	return 0;
}

int vms_take_name(struct ctl *c, struct vms_vm *vm, unsigned number, struct err *e)
{
	(void)c, (void)e;
	snprintf(vm->name, sizeof(vm->name), ".shell-%u", number);
	return 0;
}

bool vms_read(const struct vms_vm *vm, const char *file, char *buf, size_t size)
{
	(void)vm, (void)file;
	snprintf(buf, size, "%s", "\33[2Jlast\nwords");
	return true;
}

void vms_path(const struct vms_vm *vm, const char *file, char buf[VMS_PATH_MAX])
{
	(void)vm;
	snprintf(buf, VMS_PATH_MAX, "/%s", file);
}

/* --- shells --- */

static void add_shell(void)
{
	struct pool_shell *s = calloc(1, sizeof(*s));
	int fd[2];
	struct err e;

	must(s && pool.next_number < ARRAY_SIZE(peer) &&
		     socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0,
	     "a shell");
	s->pool = &pool;
	s->number = pool.next_number++;
	s->pid = FIRST_PID + (pid_t)s->number;
	s->state = SHELL_READY;
	s->api = (struct loop_source){.fd = fd[0], .ready = api_ready, .arg = s};
	must(loop_add(&pool.loop, &s->api, EPOLLIN, &e) == 0, "watch");
	peer[s->number] = fd[1];
	said[s->number] = 0;
	vms_take_name(NULL, &s->vm, s->number, &e);
	s->next = pool.all;
	pool.all = s;
	pool.count[SHELL_READY]++;
}

static void speak(const struct pool_shell *s)
{
	static const char good[] = "HTTP/1.1 204 \r\n\r\n";
	bool well = some_are_good && s->number % 2;
	const char *text = well ? good : (const char *)answer.p;
	size_t len = well ? sizeof(good) - 1 : (size_t)(answer.end - answer.p);
	size_t n = MIN(len - said[s->number], at_once);

	if (n > 0 && send(peer[s->number], text + said[s->number], n, MSG_NOSIGNAL) == (ssize_t)n)
		said[s->number] += n;
	else
		fd_close(&peer[s->number]);
}

struct pool_shell *pool_take(struct pool *p)
{
	for (struct pool_shell *s = p->all; s; s = s->next)
		if (s->state == SHELL_READY)
			return s;
	return NULL;
}

void pool_fill(struct pool *p)
{
	(void)p;
}

void pool_try_again(struct pool *p)
{
	(void)p;
}

/* Somebody gets on with it, so that nothing is waited for. */
void pool_turn(struct pool *p, int ms)
{
	bool busy = false;

	(void)ms;
	for (const struct pool_shell *s = p->all; s; s = s->next)
		if (s->state == SHELL_CLAIMED && peer[s->number] >= 0) {
			speak(s);
			busy = true;
		}
	if (!busy && p->next_number < ARRAY_SIZE(peer))
		add_shell();
	loop_run_once(&p->loop, 0);
}

/* --- the answer --- */

static void look_at_clone(const json_t *item, bool *seen)
{
	const char *failed = json_string_value(json_object_get(item, "error"));
	const json_t *pid = json_object_get(item, "pid");
	json_int_t n = json_integer_value(pid) - FIRST_PID;

	must(!failed != !pid, "an error or a process");
	for (; failed && *failed; failed++)
		must((unsigned char)*failed >= ' ', "a printable reason");
	if (!pid)
		return;
	must(n >= 0 && n < pool.next_number && !seen[n], "a process is one clone");
	seen[n] = true;
}

static void look(int status, const json_t *reply, const struct err *e)
{
	bool seen[ARRAY_SIZE(peer)] = {0};
	const json_t *item;
	unsigned good = 0;
	size_t i;

	must(status == 200 || (status == 400 && !reply && e->msg[0]), "a refusal has a message");
	json_array_foreach((json_t *)(uintptr_t)reply, i, item)
	{
		look_at_clone(item, seen);
		good += json_object_get(item, "pid") != NULL;
	}
	must(good == pool.count[SHELL_CLONE] && pool.count[SHELL_CLAIMED] == 0, "all are told of");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct ctl ctl = {.state_dir = "/"};
	static const struct pool_config config = {.c = &ctl, .size = 3};
	struct program in = {data, data + size};
	unsigned shells = (unsigned)take(&in, 1);
	json_t *reply = NULL;
	struct err e = {0};
	size_t len;
	int status;

	pool = (struct pool){.config = &config};
	must(loop_init(&pool.loop, &e) == 0, "a loop");
	some_are_good = shells & 0x80;
	at_once = take(&in, 1) + 1;
	len = take(&in, 1) * 8;
	answer.p = in.p;
	answer.end = in.p + MIN(len, (size_t)(in.end - in.p));
	in.p = answer.end;
	for (unsigned i = 0; i < (shells & 3); i++)
		add_shell();
	status = claim_serve(&pool, (const char *)in.p, (size_t)(in.end - in.p), &reply, &e);
	look(status, reply, &e);
	json_decref(reply);
	while (pool.all) {
		struct pool_shell *s = pool.all;

		pool.all = s->next;
		hang_up(s);
		fd_close(&peer[s->number]);
		free(s);
	}
	loop_finish(&pool.loop);
	return 0;
}
