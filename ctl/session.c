/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/session.h"

#include <errno.h>
#include <string.h>

int session_greeted(const struct frame *f, struct err *e)
{
	unsigned version = frame_hello(f);

	if (version == AGENT_VERSION)
		return 0;
	if (version == 0)
		return err_set(e, EPROTO, "what listens in the guest is not spore's agent");
	return err_set(e, EPROTO, "the guest's agent speaks version %u of the protocol, this is %u",
		       version, AGENT_VERSION);
}

int session_error(const struct frame *f, struct err *e)
{
	struct frame_cursor c = frame_open(f);
	uint32_t code = (uint32_t)frame_number(&c, 4);
	char what[sizeof(e->msg) / 2];

	strncpy(what, frame_string(&c), sizeof(what) - 1);
	what[sizeof(what) - 1] = '\0';
	if (!frame_closed(&c) || code == 0 || code > 4095)
		return err_set(e, EPROTO, "the guest's agent sends an error that makes no sense");
	err_clean_text(what);
	return err_set(e, (int)code, "in the guest: %s: %s", what, strerror((int)code));
}

static enum session_event broken(const struct frame *f, struct err *e)
{
	err_set(e, EPROTO, "the guest's agent breaks the protocol (frame 0x%02x)", f->type);
	return SESSION_BROKEN;
}

static enum session_event take_end(struct session *s, const struct frame *f, struct err *e)
{
	bool killed = f->data[0] == 1;

	if (f->data[0] > 1 || (killed && (f->data[1] == 0 || f->data[1] > 64)))
		return broken(f, e);
	s->status = f->data[1] + (killed ? 128 : 0);
	s->state = SESSION_OVER;
	return SESSION_EXITED;
}

static enum session_event running(struct session *s, const struct frame *f, struct err *e)
{
	struct frame_cursor c = frame_open(f);
	uint32_t n;

	switch (f->type) {
	case AGENT_STDOUT:
		return SESSION_OUTPUT;
	case AGENT_STDERR:
		return SESSION_ERRORS;
	case AGENT_TAKEN:
		n = (uint32_t)frame_number(&c, 4);
		if (n > s->unread)
			return broken(f, e);
		s->unread -= n;
		return SESSION_NOTHING;
	case AGENT_EXITED:
		return take_end(s, f, e);
	default:
		return broken(f, e);
	}
}

enum session_event session_take(struct session *s, const struct frame *f, struct err *e)
{
	switch (s->state) {
	case SESSION_GREETING:
		if (session_greeted(f, e) < 0)
			return SESSION_BROKEN;
		s->state = SESSION_STARTING;
		return SESSION_NOTHING;
	case SESSION_STARTING:
		if (f->type == AGENT_STARTED) {
			s->state = SESSION_RUNNING;
			return SESSION_STARTED;
		}
		if (f->type != AGENT_ERROR)
			return broken(f, e);
		s->state = SESSION_OVER;
		s->code = -session_error(f, e);
		return SESSION_REFUSED;
	case SESSION_RUNNING:
		return running(s, f, e);
	case SESSION_OVER:
		break;
	}
	return broken(f, e);
}

uint32_t session_room(const struct session *s)
{
	return s->state == SESSION_RUNNING ? AGENT_STDIN_ROOM - s->unread : 0;
}

void session_clean(uint8_t *data, size_t len, bool *lead)
{
	for (size_t i = 0; i < len; i++) {
		/* U+0080 to U+009F are C2 80 to C2 9F in UTF-8. */
		bool second = *lead && data[i] >= 0x80 && data[i] <= 0x9f;

		*lead = data[i] == 0xc2;
		if (second || (data[i] < 0x20 && !memchr("\t\n\r", data[i], 3)) || data[i] == 0x7f)
			data[i] = '?';
	}
}
