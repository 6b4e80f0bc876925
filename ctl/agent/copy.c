/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/agent/copy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK 32768u

static void append(char *to, size_t size, const char *s)
{
	size_t at = strlen(to), len = strlen(s);

	len = len < size - at - 1 ? len : size - at - 1;
	memcpy(to + at, s, len);
	to[at + len] = '\0';
}

/* -errno, or -EIO if that is 0. */
static int failed(struct copy_err *e, int code, const char *verb, const char *path)
{
	e->code = code > 0 ? code : EIO;
	e->what[0] = '\0';
	append(e->what, sizeof(e->what), verb);
	append(e->what, sizeof(e->what), " '");
	append(e->what, sizeof(e->what), path);
	append(e->what, sizeof(e->what), "'");
	return -e->code;
}

/* --- sending --- */

struct sender {
	int sock;
	copy_progress *progress;
	void *opaque;
	struct copy_err *e;
	uint32_t left_out;
	uint64_t bytes;
	const char *top;	   /* what the user has named, for messages */
	char path[AGENT_PATH_MAX]; /* within it */
	struct frame_out entry;
};

static int send_failed(struct sender *s, const char *verb)
{
	return failed(s->e, errno, verb, s->path[0] ? s->path : s->top);
}

static int send_frame(struct sender *s, enum agent_frame type, const void *data, uint32_t len)
{
	struct pollfd p = {.fd = s->sock, .events = POLLIN};
	int r;

	if (poll(&p, 1, 0) == 1)
		return -ECANCELED;
	r = frame_write(s->sock, type, data, len);
	/* It has closed: why, it may have said. */
	if (r == -EPIPE || r == -ECONNRESET)
		return -ECANCELED;
	errno = -r;
	return r < 0 ? send_failed(s, "send") : 0;
}

static int send_entry(struct sender *s, enum agent_kind kind, const struct stat *st,
		      const char *link)
{
	struct frame_out *o = &s->entry;

	o->len = 0;
	o->full = false;
	frame_put_number(o, kind, 1);
	frame_put_number(o, st->st_mode & 07777, 4);
	frame_put_number(
		o, (uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec, 8);
	frame_put_number(o, kind == AGENT_FILE ? (uint64_t)st->st_size : 0, 8);
	frame_put_string(o, s->path);
	frame_put_string(o, link);
	return send_frame(s, AGENT_ENTRY, o->buf, o->len);
}

/* Until it ends: files of /proc have no size. */
static int send_file(struct sender *s, int fd, const struct stat *st)
{
	static uint8_t buf[CHUNK];
	ssize_t n;
	int r = send_entry(s, AGENT_FILE, st, "");

	while (r == 0) {
		n = read(fd, buf, sizeof(buf));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return send_failed(s, "read");
		r = send_frame(s, AGENT_DATA, buf, (uint32_t)n);
		s->bytes += (uint64_t)n;
		if (s->progress)
			s->progress(s->opaque, s->path, s->bytes);
		if (n == 0)
			break;
	}
	return r;
}

static int send_link(struct sender *s, int dir, const char *name, const struct stat *st)
{
	char link[AGENT_PATH_MAX];
	ssize_t n = readlinkat(dir, name, link, sizeof(link) - 1);

	if (n < 0)
		return send_failed(s, "read link");
	link[n] = '\0';
	return send_entry(s, AGENT_SYMLINK, st, link);
}

static int send_directory(struct sender *s, int fd, const struct stat *st, unsigned depth);

static int send_child(struct sender *s, int dir, const char *name, unsigned depth)
{
	struct stat st;
	int fd, r;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : send_failed(s, "look at");
	if (S_ISLNK(st.st_mode))
		return send_link(s, dir, name, &st);
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) {
		s->left_out++;
		return 0;
	}
	fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : send_failed(s, "open");
	/* It may be another one by now. */
	if (fstat(fd, &st) < 0)
		r = send_failed(s, "look at");
	else if (S_ISDIR(st.st_mode))
		return send_directory(s, fd, &st, depth + 1);
	else
		r = S_ISREG(st.st_mode) ? send_file(s, fd, &st) : 0;
	close(fd);
	return r;
}

/* Appends a name to the path. False when it is too long. */
static bool descend(struct sender *s, size_t at, const char *name)
{
	size_t len = strlen(name);

	if (at + (at > 0) + len >= sizeof(s->path))
		return false;
	if (at > 0)
		s->path[at++] = '/';
	memcpy(s->path + at, name, len + 1);
	return true;
}

/* Closes `fd`. */
static int send_directory(struct sender *s, int fd, const struct stat *st, unsigned depth)
{
	size_t at = strlen(s->path);
	const struct dirent *d;
	DIR *dir = fdopendir(fd);
	int r;

	if (!dir) {
		r = send_failed(s, "open");
		close(fd);
		return r;
	}
	r = send_entry(s, AGENT_DIRECTORY, st, "");
	while (r == 0 && (errno = 0, d = readdir(dir))) {
		if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
			continue;
		errno = ENAMETOOLONG;
		r = depth < AGENT_DEPTH_MAX && descend(s, at, d->d_name)
			    ? send_child(s, fd, d->d_name, depth)
			    : send_failed(s, "copy below");
		s->path[at] = '\0';
	}
	if (r == 0 && errno)
		r = send_failed(s, "read directory");
	closedir(dir);
	return r;
}

/* Closes `fd`. */
static int send_top(struct sender *s, int fd)
{
	struct stat st = {0};
	int r;

	if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
		return send_directory(s, fd, &st, 0);
	errno = EINVAL;
	r = S_ISREG(st.st_mode) ? send_file(s, fd, &st)
				: send_failed(s, "neither a file nor a directory:");
	close(fd);
	return r;
}

int copy_send(int sock, const char *path, copy_progress *progress, void *opaque, struct copy_err *e)
{
	static struct sender s;
	struct frame_out *o = &s.entry;
	int fd, r;

	s = (struct sender){
		.sock = sock, .progress = progress, .opaque = opaque, .e = e, .top = path};
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	r = fd < 0 ? send_failed(&s, "open") : send_top(&s, fd);
	if (r < 0)
		return r;
	o->len = 0;
	frame_put_number(o, s.left_out, 4);
	return send_frame(&s, AGENT_DONE, o->buf, o->len);
}

/* --- receiving --- */

static int take_failed(struct copy_in *t, struct copy_err *e, const char *verb)
{
	int code = errno;
	char path[AGENT_PATH_MAX];

	path[0] = '\0';
	append(path, sizeof(path), t->target);
	append(path, sizeof(path), t->path[0] ? "/" : "");
	append(path, sizeof(path), t->path);
	return failed(e, code, verb, path);
}

static int broken(struct copy_err *e, const char *what)
{
	failed(e, EPROTO, what, "");
	return -EPROTO;
}

int copy_open(struct copy_in *t, const char *path, const char *name, struct copy_err *e)
{
	size_t len = strlen(path);
	struct stat st;

	t->top = t->file = -1;
	t->begun = false;
	t->bytes = 0;
	t->left_out = 0;
	t->target[0] = t->path[0] = '\0';
	if (len == 0 || len + 1 + strlen(name) >= sizeof(t->target))
		return failed(e, ENAMETOOLONG, "open", path);
	memcpy(t->target, path, len + 1);
	if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode) || !name[0])
		return 0;
	if (strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return failed(e, EINVAL, "no name for a copy:", name);
	append(t->target, sizeof(t->target), path[len - 1] == '/' ? "" : "/");
	append(t->target, sizeof(t->target), name);
	return 0;
}

/* Whether `s` is "a/b/c": no empty part, no "." or "..". */
static bool is_relative(const char *s)
{
	for (;;) {
		size_t len = strcspn(s, "/");

		if (len == 0 || len > 255 || (len == 1 && s[0] == '.') ||
		    (len == 2 && s[0] == '.' && s[1] == '.'))
			return false;
		if (!s[len])
			return true;
		s += len + 1;
	}
}

/* Opens the directory that the last entry is in, and finds its name there. An fd or -1, errno set. */
static int open_parent(struct copy_in *t, const char **name)
{
	int dir = fcntl(t->top, F_DUPFD_CLOEXEC, 0);
	const char *s = t->path;

	for (const char *slash; dir >= 0 && (slash = strchr(s, '/')); s = slash + 1) {
		char part[256];
		int next;

		memcpy(part, s, (size_t)(slash - s));
		part[slash - s] = '\0';
		next = openat(dir, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		close(dir);
		dir = next;
	}
	*name = s;
	return dir;
}

/* Directories stay open to their owner, so that something can be put into them. */
static int open_directory(int at, const char *name, unsigned mode, int flags)
{
	int fd;

	if (mkdirat(at, name, 0700) < 0 && errno != EEXIST)
		return -1;
	fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | flags);
	if (fd >= 0 && fchmod(fd, mode | 0700) < 0 && errno != EPERM) {
		close(fd);
		return -1;
	}
	return fd;
}

static int take_top(struct copy_in *t, unsigned kind, struct copy_err *e)
{
	if (kind == AGENT_DIRECTORY) {
		t->top = open_directory(AT_FDCWD, t->target, t->mode, 0);
		return t->top < 0 ? take_failed(t, e, "make directory") : 0;
	}
	if (kind != AGENT_FILE)
		return broken(e, "a copy begins with a link");
	t->file = open(t->target, O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY | O_CLOEXEC, 0600);
	return t->file < 0 ? take_failed(t, e, "create") : 0;
}

static int take_child(struct copy_in *t, unsigned kind, const char *link, struct copy_err *e)
{
	const char *name;
	int dir, fd, r = 0;

	if (t->top < 0 || !is_relative(t->path))
		return broken(e, "a path that leads nowhere");
	dir = open_parent(t, &name);
	if (dir < 0)
		return take_failed(t, e, "open the directory of");
	if (kind == AGENT_DIRECTORY) {
		fd = open_directory(dir, name, t->mode, O_NOFOLLOW);
		r = fd < 0 ? take_failed(t, e, "make directory") : close(fd);
	} else if (unlinkat(dir, name, 0) < 0 && errno != ENOENT) {
		r = take_failed(t, e, "replace");
	} else if (kind == AGENT_SYMLINK) {
		r = symlinkat(link, dir, name) < 0 ? take_failed(t, e, "link") : 0;
	} else {
		t->file = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
				 0600);
		r = t->file < 0 ? take_failed(t, e, "create") : 0;
	}
	close(dir);
	return r;
}

static int take_entry(struct copy_in *t, const struct frame *f, struct copy_err *e)
{
	struct frame_cursor c = frame_open(f);
	unsigned kind = (unsigned)frame_number(&c, 1);
	const char *path, *link;
	int r;

	t->mode = (uint32_t)frame_number(&c, 4) & 07777 & t->mode_mask;
	t->mtime = frame_number(&c, 8);
	(void)frame_number(&c, 8);
	path = frame_string(&c);
	link = frame_string(&c);
	if (!frame_closed(&c) || strlen(path) >= sizeof(t->path) || t->file >= 0 ||
	    kind < AGENT_FILE || kind > AGENT_SYMLINK || (kind == AGENT_SYMLINK) != !!link[0] ||
	    t->begun == !path[0])
		return broken(e, "an entry that makes no sense");
	memcpy(t->path, path, strlen(path) + 1);
	if (t->begun)
		return take_child(t, kind, link, e);
	r = take_top(t, kind, e);
	t->begun = r == 0;
	return r;
}

/* Mode and time come last: writing changes the time and takes bits of the mode away. */
static int finish_file(struct copy_in *t, struct copy_err *e)
{
	struct timespec times[2] = {
		{.tv_nsec = UTIME_OMIT},
		{.tv_sec = (time_t)(t->mtime / 1000000000u),
		 .tv_nsec = (long)(t->mtime % 1000000000u)},
	};
	struct stat st;
	int fd = t->file, r = 0;

	t->file = -1;
	if (fstat(fd, &st) < 0 ||
	    (S_ISREG(st.st_mode) && fchmod(fd, t->mode) < 0 && errno != EPERM))
		r = take_failed(t, e, "set the mode of");
	else if (S_ISREG(st.st_mode))
		(void)futimens(fd, times);
	if (close(fd) < 0 && r == 0)
		r = take_failed(t, e, "write");
	return r;
}

static int take_data(struct copy_in *t, const struct frame *f, struct copy_err *e)
{
	uint32_t done = 0;

	if (t->file < 0)
		return broken(e, "data of no file");
	if (f->len == 0)
		return finish_file(t, e);
	while (done < f->len) {
		ssize_t n = write(t->file, f->data + done, f->len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return take_failed(t, e, "write");
		done += (uint32_t)n;
	}
	t->bytes += f->len;
	if (t->progress)
		t->progress(t->opaque, t->path, t->bytes);
	return 0;
}

int copy_take(struct copy_in *t, const struct frame *f, struct copy_err *e)
{
	struct frame_cursor c = frame_open(f);

	switch (f->type) {
	case AGENT_ENTRY:
		return take_entry(t, f, e);
	case AGENT_DATA:
		return take_data(t, f, e);
	case AGENT_DONE:
		if (t->file >= 0 || !t->begun)
			return broken(e, "an end before the end");
		t->left_out = (uint32_t)frame_number(&c, 4);
		return 1;
	default:
		return broken(e, "a frame that is not part of a copy");
	}
}

void copy_close(struct copy_in *t)
{
	if (t->file >= 0)
		close(t->file);
	if (t->top >= 0)
		close(t->top);
	t->file = t->top = -1;
}
