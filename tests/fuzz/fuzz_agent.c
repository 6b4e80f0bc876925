/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An agent that sends anything to sporectl: a command's session, and a copy out of the guest.
 *
 * Byte 0: bit 0 chooses the copy. The rest is the stream, cut into reads of up to 200 bytes.
 *
 * What must hold: no crash; nothing is acknowledged that was not sent; nothing follows the end; what
 * is printed cannot steer a terminal; a copy touches nothing but itself.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/agent/copy.h"
#include "ctl/session.h"
#include "tests/fuzz/input.h"

static struct frame_in in;

/* The next frame of the input; false at its end, or when it is none. */
static bool next(struct program *p, struct frame *f)
{
	int r;

	while ((r = frame_next(&in, f)) == 0) {
		size_t left = (size_t)(p->end - p->p), n = left < 200 ? left : 200;

		if (n == 0)
			return false;
		memmove(in.buf, in.buf + in.used, in.have - in.used);
		in.have -= in.used;
		in.used = 0;
		must(n <= sizeof(in.buf) - in.have, "room for more of a frame");
		memcpy(in.buf + in.have, p->p, n);
		in.have += (uint32_t)n;
		p->p += n;
	}
	must(r < 0 || (f->data >= in.buf && f->data + f->len <= in.buf + in.have), "inside");
	return r > 0;
}

static void look_at_output(const struct frame *f)
{
	static uint8_t copy[AGENT_FRAME_MAX];
	bool lead = false;

	memcpy(copy, f->data, f->len);
	session_clean(copy, f->len, &lead);
	for (uint32_t i = 0; i < f->len; i++)
		must(copy[i] >= 0x20 || copy[i] == '\t' || copy[i] == '\n' || copy[i] == '\r',
		     "harmless output");
}

static void command(struct program *p)
{
	struct session s = {.unread = 3000};
	struct frame f;
	struct err e;

	while (next(p, &f)) {
		enum session_state before = s.state;
		uint32_t unread = s.unread;
		enum session_event event = session_take(&s, &f, &e);

		must(s.state >= before && s.unread <= unread, "forward only");
		must(before != SESSION_OVER || event == SESSION_BROKEN, "nothing behind the end");
		must(session_room(&s) <= AGENT_STDIN_ROOM, "room");
		must(s.status >= 0 && s.status <= 255, "status");
		if (event == SESSION_OUTPUT || event == SESSION_ERRORS)
			look_at_output(&f);
		if (event == SESSION_BROKEN || event == SESSION_REFUSED)
			must(!strchr(e.msg, '\33') && !strchr(e.msg, '\n'), "a harmless line");
		if (event == SESSION_BROKEN)
			return;
	}
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

/* "secret" beside the copy is what a hostile guest would like to have. */
static char dir[] = "/tmp/fuzz-agent-XXXXXX", secret[40], target[40];

static void prepare(void)
{
	int fd;

	if (secret[0])
		return;
	must(mkdtemp(dir) != NULL, "a directory");
	snprintf(secret, sizeof(secret), "%s/secret", dir);
	snprintf(target, sizeof(target), "%s/copy", dir);
	fd = open(secret, O_WRONLY | O_CREAT | O_CLOEXEC, 0400);
	must(fd >= 0 && write(fd, "secret", 6) == 6, "a file");
	close(fd);
}

static void look_around(void)
{
	struct stat st;

	must(stat(secret, &st) == 0 && st.st_size == 6 && (st.st_mode & 07777) == 0400 &&
		     st.st_nlink == 1,
	     "the secret is as it was");
	must(stat(dir, &st) == 0 && st.st_nlink <= 3, "no directory but the copy");
}

static void copy(struct program *p)
{
	static struct copy_in t = {.mode_mask = 0777};
	static struct copy_err e;
	struct frame f;

	prepare();
	must(copy_open(&t, target, "", &e) == 0, "open");
	while (next(p, &f) && copy_take(&t, &f, &e) == 0)
		;
	copy_close(&t);
	look_around();
	(void)nftw(target, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct program p = {data, data + size};

	in.from_agent = true;
	in.used = in.have = 0;
	if (take(&p, 1) & 1)
		copy(&p);
	else
		command(&p);
	return 0;
}
