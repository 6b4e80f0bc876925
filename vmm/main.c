/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The monitor: options, log, API socket, config file, then the event loop until the guest or a
 * signal ends it. Nothing is done before the API is ready that can be done later.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "api-sock/configfile.h"
#include "api-sock/route.h"
#include "api-sock/server.h"
#include "jailer/seccomp.h"
#include "snapshot/describe.h"
#include "snapshot/migrate.h"
#include "vmm/advice.h"
#include "vmm/base/fd.h"
#include "vmm/metrics.h"
#include "vmm/options.h"

/* More than a microVM with every device uses. */
#define FD_TABLE_SIZE 512

struct app {
	struct options options;
	struct loop loop;
	struct vm vm;
	struct metrics metrics;
	struct api api;
	struct server *server; /* or NULL */
	struct event_log events;
	struct seccomp seccomp;
	struct loop_source signals;
	struct loop_timer idle;
	int end_signal; /* that asked us to end; 0: none */
	int exit_code;
};

/* A line on standard error, and one with what to type next; returns the exit code. */
static int complain(const struct err *e, int code)
{
	const char *advice = advice_for(e->msg, code);
	char text[sizeof(e->msg)], lines[sizeof(text) + 160];
	int n;

	strcpy(text, e->msg);
	err_clean_text(text);
	n = snprintf(lines, sizeof(lines), "spore: %s\n%s%s%s", text, advice ? "  try: " : "",
		     advice ? advice : "", advice ? "\n" : "");
	/* Not dprintf(): it seeks first, which the system call filter forbids. */
	fd_write_full(STDERR_FILENO, lines, (size_t)MIN(n, (int)sizeof(lines) - 1));
	return code;
}

/* --- signals --- */

static const struct {
	int signal;
	int code;
	const char *name, *text;
} fatal_signals[] = {
	{SIGBUS, VM_EXIT_SIGBUS, "sigbus", "spore: SIGBUS: memory could not be provided\n"},
	{SIGSEGV, VM_EXIT_SIGSEGV, "sigsegv", "spore: SIGSEGV\n"},
	{SIGXFSZ, VM_EXIT_SIGXFSZ, "sigxfsz", "spore: SIGXFSZ: file size limit\n"},
	{SIGXCPU, VM_EXIT_SIGXCPU, "sigxcpu", "spore: SIGXCPU: CPU time limit\n"},
	{SIGILL, VM_EXIT_SIGILL, "sigill", "spore: SIGILL\n"},
};

/* Where a handler finds the metrics; it gets no argument. */
static const struct metrics *metrics_at_the_end;

static void on_violation(void)
{
	serial_terminal_restore();
	metrics_last_words(metrics_at_the_end, "seccomp", "num_faults");
}

/* Async-signal-safe calls only; any thread. */
static void on_fatal_signal(int sig)
{
	int code = VM_EXIT_ERROR;

	serial_terminal_restore();
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++) {
		if (fatal_signals[i].signal != sig)
			continue;
		code = fatal_signals[i].code;
		/* When this fails there is nobody left to tell. */
		if (fd_write(STDERR_FILENO, fatal_signals[i].text, strlen(fatal_signals[i].text)) <
		    0)
			break;
		metrics_last_words(metrics_at_the_end, "signals", fatal_signals[i].name);
	}
	_exit(code);
}

/* The default action follows: by a second signal, or the faulting instruction is executed again. */
static void on_crash_signal(int sig)
{
	serial_terminal_restore();
	metrics_last_words(metrics_at_the_end, "vmm", "panic_count");
	if (sig == SIGABRT)
		raise(sig);
}

/* SIGUSR2: somebody has moved the files away, to rotate them. What does not open stays as it was. */
static void reopen_files(struct app *app)
{
	const char *log = app->vm.config.logger.log_path;
	struct err e;

	if (log && log_open(log, &e) < 0)
		log_error("reopen: %s", e.msg);
	if (metrics_reopen(&app->metrics, &e) < 0)
		log_error("reopen: %s", e.msg);
}

static void on_signal(struct loop_source *s, uint32_t events)
{
	struct app *app = s->arg;
	struct signalfd_siginfo info;

	(void)events;
	if (fd_read(s->fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGUSR2) {
		reopen_files(app);
		return;
	}
	app->end_signal = (int)info.ssi_signo;
	if (app->end_signal == SIGHUP)
		metric_inc(&app->metrics.sighup);
	app->exit_code = VM_EXIT_SIGHUP;
	loop_stop(&app->loop);
}

/*
 * SIGINT, SIGQUIT, SIGTERM and SIGHUP end the process through the loop; they are blocked before any thread
 * exists, so that every thread inherits that. A write to a closed pipe is an error of that write
 * (a lost log line), never the end of the guest.
 */
static int setup_signals(struct app *app, struct err *e)
{
	struct sigaction sa = {.sa_handler = on_fatal_signal};
	struct sigaction crash = {.sa_handler = on_crash_signal, .sa_flags = (int)SA_RESETHAND};
	sigset_t set;

	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		sigaction(fatal_signals[i].signal, &sa, NULL);
	sigaction(SIGABRT, &crash, NULL);
	sigaction(SIGFPE, &crash, NULL);
	if (seccomp_handle(on_violation, e) < 0)
		return -e->code;
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGQUIT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	app->signals = (struct loop_source){
		.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK),
		.ready = on_signal,
		.arg = app,
	};
	if (app->signals.fd < 0)
		return err_sys(e, "create a signalfd");
	return loop_add(&app->loop, &app->signals, EPOLLIN, e);
}

/* --- start --- */

_Static_assert(OPTIONS_ALLOW_MAX == SERVER_ALLOW_MAX, "one is copied into the other");

/*
 * Standard descriptors that the parent has closed must not become a drive that the log writes to.
 * And the table is grown now, while there is one thread: later it costs an RCU grace period.
 */
static int setup_fds(struct err *e)
{
	int fd;

	for (fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
			return err_set(e, EBADF,
				       "standard descriptor %d is closed and /dev/null "
				       "does not open",
				       fd);
	fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, FD_TABLE_SIZE - 1);
	fd_close(&fd); /* a lower limit of open files is no error */
	return 0;
}

static int setup_logger(struct app *app, struct err *e)
{
	const struct options *o = &app->options;
	struct logger_config piece = {.level = LOG_INFO};
	int r;

	log_set_id(o->id);
	if (!o->log_path && !o->level && !o->module && !o->show_level && !o->show_log_origin)
		return 0;
	if (o->level)
		log_level_parse(o->level, &piece.level);
	piece.show_level = o->show_level;
	piece.show_log_origin = o->show_log_origin;
	piece.log_path = o->log_path ? strdup(o->log_path) : NULL;
	piece.module = o->module ? strdup(o->module) : NULL;
	r = config_set_logger(&app->vm.config, &piece, e);
	logger_config_finish(&piece);
	return r < 0 ? err_wrap(e, "--log-path") : 0;
}

static int setup_metrics(struct app *app, struct err *e)
{
	const struct options *o = &app->options;
	struct metrics_config piece;
	int r;

	if (!o->metrics_path)
		return 0;
	metrics_config_init(&piece);
	piece.metrics_path = strdup(o->metrics_path);
	r = config_set_metrics(&app->vm.config, &piece, e);
	metrics_config_finish(&piece);
	return r < 0 ? err_wrap(e, "--metrics-path") : 0;
}

/* What the jailer took is part of the start. Without its options there is nothing to compare. */
static void measure_startup(struct app *app)
{
	const struct options *o = &app->options;
	uint64_t now = now_ns() / 1000;
	struct timespec ts;

	if (o->start_time_us && now > o->start_time_us)
		app->metrics.startup_us = now - o->start_time_us;
	if (!o->start_time_cpu_us && !o->parent_cpu_time_us)
		return;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	now = (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
	if (now > o->start_time_cpu_us)
		app->metrics.startup_cpu_us = now - o->start_time_cpu_us + o->parent_cpu_time_us;
}

static void on_vm_ended(struct vm *vm, enum vm_exit code)
{
	struct app *app = vm->ended_arg;

	app->exit_code = (int)code;
	loop_stop(&app->loop);
}

static size_t read_events(void *arg, uint64_t *at, char *buf, size_t size)
{
	return event_read(arg, at, buf, size);
}

static void on_event(void *arg)
{
	struct app *app = arg;

	server_wake(app->server);
}

/* The API's socket if the parent has one for us: --api-fd, or systemd's sd_listen_fds(3). */
static int inherited_api(struct options *o, struct err *e)
{
	const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");

	if (o->api_fd >= 0 || o->no_api || !pid || !count ||
	    strtoull(pid, NULL, 10) != (uint64_t)getpid())
		return 0;
	if (strcmp(count, "1") != 0)
		return err_set(e, EINVAL, "LISTEN_FDS is '%.16s', one socket is needed", count);
	o->api_fd = 3;
	return 0;
}

/* Before another file can take the number of a descriptor that is not open. */
static int check_inherited(const struct options *o, struct err *e)
{
	if (o->api_fd >= 0 && fcntl(o->api_fd, F_GETFD) < 0)
		return err_sys(e, "API descriptor %d", o->api_fd);
	if (o->ready_fd >= 0 && fcntl(o->ready_fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_sys(e, "--ready-fd: descriptor %d", o->ready_fd);
	return 0;
}

static void answer_later(void *arg, uint64_t ticket, struct http_response *r)
{
	const struct app *app = arg;

	server_answer(app->server, ticket, r);
}

static int setup(struct app *app, struct err *e)
{
	unsigned seed = 0;
	int r = inherited_api(&app->options, e);

	if (r == 0)
		r = check_inherited(&app->options, e);
	if (r == 0)
		r = setup_fds(e);
	if (app->options.jailed) {
		fd_confine();
		prctl(PR_SET_NAME,
		      "spore"); /* else the number of the descriptor it was executed by */
	}
	if (r == 0)
		r = loop_init(&app->loop, e);
	if (r < 0)
		return r;
	vm_init(&app->vm, &app->loop, app->options.id);
	app->vm.mmds.limit = app->options.mmds_limit;
	app->vm.config.boot_timer = app->options.boot_timer;
	app->vm.ended = on_vm_ended;
	app->vm.ended_arg = app;
	metrics_init(&app->metrics, &app->vm);
	metrics_at_the_end = &app->metrics;
	app->api = (struct api){
		.vm = &app->vm,
		.metrics = &app->metrics,
		.events = {.read = read_events, .arg = &app->events},
		.answer = answer_later,
		.answer_arg = app,
	};
	snapshot_history_init(&app->api.snapshots);
	r = event_init(&app->events, &app->loop, e);
	if (r < 0)
		return r;
	app->vm.events = &app->events;
	/* Else jansson opens /dev/urandom for it, which a jail may not have. */
	if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) == sizeof(seed) && seed)
		json_object_seed(seed);
	r = setup_signals(app, e);
	if (r == 0)
		r = setup_logger(app, e);
	return r == 0 ? setup_metrics(app, e) : r;
}

/* A parent that is gone has nobody to tell. */
static void tell_ready(struct options *o)
{
	if (o->ready_fd < 0)
		return;
	if (fd_write_full(o->ready_fd, "\n", 1) < 0)
		log_warn("--ready-fd: %s", strerror(errno));
	fd_close(&o->ready_fd);
}

static int open_api(struct app *app, struct err *e)
{
	struct options *o = &app->options;
	struct server_config config = {
		.path = o->api_sock,
		.mode = o->api_sock_mode,
		.chown = o->has_owner,
		.uid = o->owner_uid,
		.gid = o->owner_gid,
		.allow_count = o->allow_count,
		.inherited = o->api_fd >= 0,
		.fd = o->api_fd,
		.max_body = o->max_payload,
		.timeout_ns = SERVER_TIMEOUT_NS,
		.handle = route_handle,
		.takes_passed = route_takes_passed,
		.arg = &app->api,
	};

	for (unsigned i = 0; i < o->allow_count; i++)
		config.allow[i] = (struct server_peer){o->allow[i].is_group, o->allow[i].id};
	if (o->no_api)
		return 0;
	app->server = server_create(&app->loop, &config, e);
	if (!app->server)
		return -e->code;
	app->events.added = on_event;
	app->events.arg = app;
	measure_startup(app);
	metrics_watch_process(&app->metrics);
	return 0;
}

/* What confine() will install; says so when that is nothing. */
static int load_filters(struct app *app, struct err *e)
{
	const struct options *o = &app->options;
	int r = 0;

	if (o->no_seccomp || !seccomp_built_in()) {
		log_warn("WARNING: NO SECCOMP FILTERS%s: whoever takes over this process may make "
			 "every system call",
			 o->no_seccomp ? "" : " IN THIS BUILD");
		return 0;
	}
	if (o->seccomp_filter)
		r = seccomp_load(&app->seccomp, o->seccomp_filter, e);
	else
		seccomp_init(&app->seccomp);
	app->seccomp.more = o->allow_count ? SECCOMP_PEERS : 0;
	app->vm.seccomp = &app->seccomp;
	return r == 0 ? 0 : err_wrap(e, "--seccomp-filter");
}

static int warm_up(struct app *app, struct err *e)
{
	if (!app->options.shell.vcpus)
		return 0;
	if (shell_prepare(&app->vm, &app->options.shell, e) < 0 ||
	    snapshot_warm(&app->api.snapshots, app->options.shell.vcpus, e) < 0)
		return err_wrap(e, "--shell");
	return 0;
}

/* Nobody has asked for anything yet; a client that comes at once does not wait for this. */
#define IDLE_NS 2000000u

static void on_idle(struct loop_timer *t)
{
	struct app *app = t->arg;

	vm_prepare(&app->vm);
}

/*
 * From here on, and in all threads to come, only what configuring and starting needs. Nothing has
 * been read yet that somebody else wrote: neither a config file nor from the API's socket, for
 * whose first client we sleep here, or until we are idle. So the socket is there without a filter,
 * a third of what it costs to start a process. A shell has it from the beginning.
 */
static int confine(struct app *app, struct err *e)
{
	if (!app->options.config_file && !app->vm.shell) {
		app->idle = (struct loop_timer){.expired = on_idle, .arg = app};
		loop_timer_set(&app->loop, &app->idle, IDLE_NS);
		loop_wait(&app->loop);
	}
	if (app->vm.seccomp && seccomp_install(app->vm.seccomp, SECCOMP_BOOT, e) < 0)
		return -e->code;
	seccomp_attack(SECCOMP_BOOT);
	return 0;
}

static int start_from_file(struct app *app, struct err *e)
{
	const struct options *o = &app->options;
	int r = o->metadata ? configfile_load_metadata(&app->api, o->metadata, e) : 0;

	if (r < 0 || !o->config_file)
		return r;
	r = configfile_load(&app->api, o->config_file, e);
	return r == 0 ? action_start(&app->api, e) : r;
}

/* --- end --- */

/*
 * What others see is put in order first. The VM itself is left to the kernel: closing it here
 * would take 16 ms that nobody gains from.
 */
static void leave(struct app *app)
{
	struct err e;

	if (app->end_signal)
		event_emit(&app->events, "exit", EVENT_TEXT("reason", "signal"),
			   EVENT_NUMBER("signal", app->end_signal),
			   EVENT_NUMBER("code", app->exit_code));
	server_destroy(app->server);
	migrate_forget(&app->api.snapshots);
	vsock_config_finish(&app->vm.config.vsock);
	serial_terminal_restore();
	vm_sync(&app->vm);
	if (app->vm.phase != VM_NOT_STARTED && metrics_flush(&app->metrics, &e) < 0)
		complain(&e, VM_EXIT_ERROR);
	if (app->end_signal && app->end_signal != SIGHUP) {
		sigset_t set;

		sigemptyset(&set);
		sigaddset(&set, app->end_signal);
		raise(app->end_signal);
		sigprocmask(SIG_UNBLOCK, &set, NULL);
	}
	_exit(app->exit_code);
}

static int serve(struct app *app)
{
	struct err e = {0};
	int r;

	if (setup(app, &e) < 0 || load_filters(app, &e) < 0 || warm_up(app, &e) < 0 ||
	    open_api(app, &e) < 0)
		return complain(&e, VM_EXIT_ERROR);
	if (!app->options.no_api && !app->vm.shell)
		tell_ready(&app->options);
	if (confine(app, &e) < 0)
		return complain(&e, VM_EXIT_ERROR);
	if (start_from_file(app, &e) < 0)
		return complain(&e, VM_EXIT_BAD_CONFIG);
	tell_ready(&app->options);
	if (app->vm.phase != VM_NOT_STARTED)
		seccomp_attack(SECCOMP_MAIN);
	r = loop_run(&app->loop);
	if (r < 0) {
		err_set(&e, -r, "event loop: %s", strerror(-r));
		return complain(&e, VM_EXIT_ERROR);
	}
	return app->exit_code;
}

static int describe_snapshot(const char *path, bool json)
{
	struct err e;
	cleanup_fd int fd = fd_open_file(path, O_RDONLY, false, &e);

	if (fd < 0)
		return complain(&e, VM_EXIT_ERROR);
	if ((json ? describe_json : state_describe)(fd, STDOUT_FILENO, &e) < 0) {
		err_wrap(&e, "'%s'", path);
		return complain(&e, VM_EXIT_ERROR);
	}
	return VM_EXIT_OK;
}

int main(int argc, char *argv[])
{
	static struct app app; /* zeroes that are not touched cost nothing */
	struct err e = {0};

	if (options_parse(&app.options, argc, argv, &e) < 0)
		return complain(&e, VM_EXIT_ARG_PARSING);
	if (app.options.help) {
		options_print_help(STDOUT_FILENO);
		return VM_EXIT_OK;
	}
	if (app.options.version) {
		dprintf(STDOUT_FILENO, "spore v%s\n", SPORE_VERSION);
		return VM_EXIT_OK;
	}
	if (app.options.snapshot_version) {
		dprintf(STDOUT_FILENO, "v%s\n", SNAPSHOT_VERSION);
		return VM_EXIT_OK;
	}
	if (app.options.describe_snapshot)
		return describe_snapshot(app.options.describe_snapshot, app.options.json);
	app.exit_code = serve(&app);
	leave(&app);
}
