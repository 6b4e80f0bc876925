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
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "api-sock/configfile.h"
#include "api-sock/route.h"
#include "api-sock/server.h"
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
	struct loop_source signals;
	int end_signal; /* that asked us to end; 0: none */
	int exit_code;
};

/* One line on standard error; returns the exit code. */
static int complain(const struct err *e, enum vm_exit code)
{
	char line[sizeof(e->msg)];

	memcpy(line, e->msg, sizeof(line));
	body_clean_text(line);
	dprintf(STDERR_FILENO, "spore: %s\n", line);
	return code;
}

/* --- signals --- */

static const struct {
	int signal;
	enum vm_exit code;
	const char *text;
} fatal_signals[] = {
	{SIGSYS, VM_EXIT_BAD_SYSCALL, "spore: forbidden system call\n"},
	{SIGBUS, VM_EXIT_SIGBUS, "spore: SIGBUS: memory could not be provided\n"},
	{SIGSEGV, VM_EXIT_SIGSEGV, "spore: SIGSEGV\n"},
	{SIGXFSZ, VM_EXIT_SIGXFSZ, "spore: SIGXFSZ: file size limit\n"},
	{SIGXCPU, VM_EXIT_SIGXCPU, "spore: SIGXCPU: CPU time limit\n"},
	{SIGILL, VM_EXIT_SIGILL, "spore: SIGILL\n"},
};

/* Async-signal-safe calls only; any thread. */
static void on_fatal_signal(int sig)
{
	serial_terminal_restore();
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++) {
		if (fatal_signals[i].signal != sig)
			continue;
		if (write(STDERR_FILENO, fatal_signals[i].text, strlen(fatal_signals[i].text)) < 0)
			_exit(fatal_signals[i].code);
		_exit(fatal_signals[i].code);
	}
	_exit(VM_EXIT_ERROR);
}

static void on_end_signal(struct loop_source *s, uint32_t events)
{
	struct app *app = s->arg;
	struct signalfd_siginfo info;

	(void)events;
	if (read(s->fd, &info, sizeof(info)) != sizeof(info))
		return;
	app->end_signal = (int)info.ssi_signo;
	app->exit_code = VM_EXIT_SIGHUP;
	loop_stop(&app->loop);
}

/*
 * SIGINT, SIGTERM and SIGHUP end the process through the loop; they are blocked before any thread
 * exists, so that every thread inherits that. A write to a closed pipe is an error of that write
 * (a lost log line), never the end of the guest.
 */
static int setup_signals(struct app *app, struct err *e)
{
	struct sigaction sa = {.sa_handler = on_fatal_signal};
	sigset_t set;

	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		sigaction(fatal_signals[i].signal, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	app->signals = (struct loop_source){
		.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK),
		.ready = on_end_signal,
		.arg = app,
	};
	if (app->signals.fd < 0)
		return err_sys(e, "create a signalfd");
	return loop_add(&app->loop, &app->signals, EPOLLIN, e);
}

/* --- start --- */

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

	app->exit_code = code;
	loop_stop(&app->loop);
}

static int setup(struct app *app, struct err *e)
{
	unsigned seed = 0;
	int r = setup_fds(e);

	if (r == 0)
		r = loop_init(&app->loop, e);
	if (r < 0)
		return r;
	vm_init(&app->vm, &app->loop, app->options.id);
	app->vm.config.boot_timer = app->options.boot_timer;
	app->vm.ended = on_vm_ended;
	app->vm.ended_arg = app;
	metrics_init(&app->metrics, &app->vm);
	app->api = (struct api){.vm = &app->vm, .metrics = &app->metrics};
	/* Else jansson opens /dev/urandom for it, which a jail may not have. */
	if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) == sizeof(seed) && seed)
		json_object_seed(seed);
	r = setup_signals(app, e);
	if (r == 0)
		r = setup_logger(app, e);
	return r == 0 ? setup_metrics(app, e) : r;
}

static int open_api(struct app *app, struct err *e)
{
	const struct server_config config = {
		.path = app->options.api_sock,
		.max_body = app->options.max_payload,
		.timeout_ns = SERVER_TIMEOUT_NS,
		.handle = route_handle,
		.arg = &app->api,
	};

	if (app->options.no_api)
		return 0;
	app->server = server_create(&app->loop, &config, e);
	if (!app->server)
		return -e->code;
	measure_startup(app);
	return 0;
}

static int start_from_file(struct app *app, struct err *e)
{
	int r;

	if (!app->options.config_file)
		return 0;
	r = configfile_load(&app->api, app->options.config_file, e);
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

	server_destroy(app->server);
	serial_terminal_restore();
	if (app->vm.phase != VM_NOT_STARTED && metrics_flush(&app->metrics, &e) < 0)
		complain(&e, VM_EXIT_ERROR);
	if (app->end_signal == SIGINT || app->end_signal == SIGTERM) {
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

	if (setup(app, &e) < 0 || open_api(app, &e) < 0)
		return complain(&e, VM_EXIT_ERROR);
	if (start_from_file(app, &e) < 0)
		return complain(&e, VM_EXIT_BAD_CONFIG);
	r = loop_run(&app->loop);
	if (r < 0) {
		err_set(&e, -r, "event loop: %s", strerror(-r));
		return complain(&e, VM_EXIT_ERROR);
	}
	return app->exit_code;
}

int main(int argc, char *argv[])
{
	struct app app = {0};
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
	app.exit_code = serve(&app);
	leave(&app);
}
