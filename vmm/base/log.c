/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "vmm/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "vmm/base/fd.h"

#define SITE_WINDOW_NS 5000000000ull
#define SITE_BURST     10
#define REPLACED_TRIES 1000

/* The only mutable global of spore. [m] set by the main thread, read by all. */
static struct {
	_Atomic int level;
	_Atomic bool show_level, show_origin;
	_Atomic int fd;
	int spare; /* its other number; stdout: none yet */
	char id[80];
	char module[64];
	_Atomic uint64_t missed, rate_limited;
} sink = {
	.level = LOG_INFO, .fd = STDOUT_FILENO, .spare = STDOUT_FILENO, .id = "anonymous-instance"};

static _Thread_local const char *thread_name = "main";

static const struct {
	const char *name;
	enum log_level level;
} levels[] = {
	{"Off", LOG_OFF},   {"Error", LOG_ERROR}, {"Warn", LOG_WARN},	{"Warning", LOG_WARN},
	{"Info", LOG_INFO}, {"Debug", LOG_DEBUG}, {"Trace", LOG_TRACE},
};

static const char *const level_tag[] = {
	[LOG_OFF] = "OFF",   [LOG_ERROR] = "ERROR", [LOG_WARN] = "WARN",
	[LOG_INFO] = "INFO", [LOG_DEBUG] = "DEBUG", [LOG_TRACE] = "TRACE",
};

void log_set_level(enum log_level level)
{
	sink.level = level;
}

void log_set_show(bool level, bool origin)
{
	sink.show_level = level;
	sink.show_origin = origin;
}

void log_set_module(const char *prefix)
{
	snprintf(sink.module, sizeof(sink.module), "%s", prefix ? prefix : "");
}

void log_set_id(const char *id)
{
	snprintf(sink.id, sizeof(sink.id), "%s", id);
}

/* Closes `number` and makes it a duplicate of `fd`. Only the main thread opens files, so nothing else can take it. */
static int replace_number(int number, int fd)
{
	close(number);
	return fcntl(fd, F_DUPFD_CLOEXEC, number) < 0 ? -errno : 0;
}

/*
 * A thread that has just read a number must not write to some other file: the log has two, for good, and
 * they are replaced one after the other while the sink is the other one. Who meets one that is
 * closed reads the number again.
 */
int log_open(const char *path, struct err *e)
{
	cleanup_fd int fd = fd_open_sink(path, e);
	int used = sink.fd, r = 0;

	if (fd < 0)
		return err_wrap(e, "log");
	if (used == STDOUT_FILENO) {
		sink.fd = TAKE_FD(fd);
		return 0;
	}
	if (sink.spare == STDOUT_FILENO)
		sink.spare = fcntl(used, F_DUPFD_CLOEXEC, 0);
	if (sink.spare < 0) {
		r = -errno;
		sink.spare = STDOUT_FILENO;
	}
	if (r == 0)
		r = replace_number(sink.spare, fd);
	if (r == 0) {
		sink.fd = sink.spare;
		r = replace_number(used, fd);
		sink.fd = used;
	}
	return r < 0 ? err_set(e, -r, "replace the log by '%s': %s", path, strerror(-r)) : 0;
}

void log_name_thread(const char *name)
{
	thread_name = name;
}

int log_level_parse(const char *name, enum log_level *level)
{
	for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
		if (strcasecmp(name, levels[i].name) == 0) {
			*level = levels[i].level;
			return 0;
		}
	}
	return -EINVAL;
}

struct log_stats log_stats(void)
{
	return (struct log_stats){.missed = sink.missed, .rate_limited = sink.rate_limited};
}

bool log_enabled(enum log_level level)
{
	return (int)level <= atomic_load_explicit(&sink.level, memory_order_relaxed);
}

/* True when the site may write now. Races between threads cost at most a line too many. */
static bool site_admit(struct log_site *site, uint32_t *suppressed)
{
	uint64_t now = now_ns();

	*suppressed = 0;
	if (!site->window_ns || now - site->window_ns > SITE_WINDOW_NS) {
		site->window_ns = now;
		site->count = 0;
	}
	if (atomic_fetch_add(&site->count, 1) >= SITE_BURST) {
		site->suppressed++;
		sink.rate_limited++;
		return false;
	}
	*suppressed = atomic_exchange(&site->suppressed, 0);
	return true;
}

static size_t put(char *buf, size_t size, size_t at, const char *fmt, ...) PRINTF_LIKE(4, 5);
static size_t put(char *buf, size_t size, size_t at, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(buf + at, size - at, fmt, ap);
	va_end(ap);
	return n < 0 ? at : MIN(at + (size_t)n, size - 1);
}

/*
 * Seconds since 1970 as a date in UTC. glibc's own functions read the time zone's file and bring
 * 100 KiB of parsers into a static program. Years are counted from March, so that the leap day
 * is the last of its year; 400 years have 146097 days.
 */
static size_t put_time(char *buf, size_t size, const struct timespec *ts)
{
	int64_t days = ts->tv_sec / 86400 + 719468, second = ts->tv_sec % 86400;
	int64_t era = days / 146097, of_era = days % 146097;
	int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
	int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
	int64_t month = (5 * of_year + 2) / 153; /* 0 is March */
	int64_t day = of_year - (153 * month + 2) / 5 + 1;

	return put(buf, size, 0, "%04d-%02d-%02dT%02d:%02d:%02d.%09ld",
		   (int)(year + era * 400 + (month >= 10)),
		   (int)(month < 10 ? month + 3 : month - 9), (int)day, (int)(second / 3600),
		   (int)(second / 60 % 60), (int)(second % 60), ts->tv_nsec);
}

static size_t put_head(char *buf, size_t size, enum log_level level, const char *file, int line)
{
	struct timespec ts;
	size_t n;

	clock_gettime(CLOCK_REALTIME, &ts);
	n = put_time(buf, size, &ts);
	n = put(buf, size, n, " [%s:%s", sink.id, thread_name);
	if (sink.show_level)
		n = put(buf, size, n, ":%s", level_tag[level]);
	if (sink.show_origin)
		n = put(buf, size, n, ":%s:%d", file, line);
	return put(buf, size, n, "] ");
}

/* Text from outside must not look like another line, nor drive a terminal. */
static void blank_controls(char *p, const char *end)
{
	for (; p < end; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = ' ';
}

/*
 * One write, and none that would wait: stdout may be a pipe that nobody reads. Again when the number was
 * being replaced (log_open()).
 */
static bool deliver(const char *buf, size_t len)
{
	int r = -EBADF;

	for (unsigned tries = 0; r == -EBADF && tries < REPLACED_TRIES; tries++) {
		struct pollfd p = {.fd = sink.fd, .events = POLLOUT};

		if (poll(&p, 1, 0) != 1)
			return false;
		if (p.revents & POLLOUT)
			r = fd_write_full(p.fd, buf, len);
		else if (!(p.revents & POLLNVAL))
			return false;
	}
	return r == 0;
}

void log_write(struct log_site *site, enum log_level level, const char *file, int line,
	       const char *fmt, ...)
{
	char buf[768];
	uint32_t suppressed;
	va_list ap;
	size_t n, head;
	int m;

	if (sink.module[0] && strncmp(file, sink.module, strlen(sink.module)) != 0)
		return;
	if (!site_admit(site, &suppressed))
		return;
	n = head = put_head(buf, sizeof(buf), level, file, line);
	va_start(ap, fmt);
	m = vsnprintf(buf + n, sizeof(buf) - n, fmt, ap);
	va_end(ap);
	n = m < 0 ? n : MIN(n + (size_t)m, sizeof(buf) - 48);
	blank_controls(buf + head, buf + n);
	if (suppressed)
		n = put(buf, sizeof(buf), n, " (%u like this left out)", suppressed);
	buf[n++] = '\n';
	if (!deliver(buf, n))
		sink.missed++;
}
