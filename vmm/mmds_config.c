/* SPDX-License-Identifier: Apache-2.0 */
/* The metadata service's configuration, and HTTP over the connections of its network. */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "vmm/config.h"

#define BODY_MAX 1024 /* of a request; no body means anything */

typedef char iface_id[NETCONFIG_ID_MAX + 1];

/* --- configuration --- */

void mmds_config_init(struct mmds_config *c)
{
	*c = (struct mmds_config){.ipv4_address = MMDS_ADDRESS};
}

void mmds_config_finish(struct mmds_config *c)
{
	free(c->interfaces.item);
	mmds_config_init(c);
}

bool mmds_config_has(const struct mmds_config *c, const char *id)
{
	const iface_id *item = c->interfaces.item;

	for (unsigned i = 0; i < c->interfaces.count; i++)
		if (strcmp(item[i], id) == 0)
			return true;
	return false;
}

/* Link-local, and none of those that RFC 3927 section 2.1 keeps for later. */
static bool parse_address(const char *text, uint8_t a[4])
{
	return inet_pton(AF_INET, text, a) == 1 && a[0] == 169 && a[1] == 254 && a[2] >= 1 &&
	       a[2] <= 254;
}

int config_set_mmds(struct config *c, struct mmds_config *piece, struct err *e)
{
	const iface_id *item = piece->interfaces.item;
	uint8_t address[4];

	if (piece->interfaces.count == 0)
		return err_set(e, EINVAL,
			       "network_interfaces: The list of network interface IDs is empty.");
	for (unsigned i = 0; i < piece->interfaces.count; i++)
		if (!config_find_net(c, item[i]))
			return err_set(e, EINVAL,
				       "network_interfaces: '%s' does not correspond to any "
				       "existing network interface.",
				       item[i]);
	if (!parse_address(piece->ipv4_address, address))
		return err_set(e, EINVAL,
			       "ipv4_address: '%s' is not link-local (169.254.1.0 to "
			       "169.254.254.255).",
			       piece->ipv4_address);
	mmds_config_finish(&c->mmds);
	c->mmds = *piece;
	mmds_config_init(piece);
	return 0;
}

/* --- HTTP --- */

struct session {
	struct mmds *mmds;
	struct http_reader *http;
};

static void session_close(void *session)
{
	struct session *s = session;

	http_destroy(s->http);
	free(s);
}

static void *session_open(void *arg)
{
	struct session *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->mmds = arg;
	s->http = http_create(BODY_MAX);
	if (!s->http) {
		free(s);
		return NULL;
	}
	http_keep(s->http, mmds_headers);
	return s;
}

static size_t session_input(void *session, const char *buf, size_t len, struct mmdsnet_answer *a)
{
	struct session *s = session;
	struct http_response r = {0};
	size_t used;

	switch (http_feed(s->http, buf, len, &used)) {
	case HTTP_MORE:
		return len;
	case HTTP_READY:
		mmds_answer(s->mmds, s->http, now_ns(), &r);
		http_next(s->http);
		break;
	case HTTP_BAD:
		http_error(s->http, &r);
		used = len;
		break;
	}
	a->close = !r.keep_alive;
	a->bytes = http_print(&r, &a->len);
	if (!a->bytes)
		a->close = true;
	return used;
}

struct mmdsnet *mmds_open(struct mmds *m, const struct mmds_config *c, struct loop *loop,
			  struct err *e)
{
	const struct mmdsnet_service service = {
		.open = session_open,
		.input = session_input,
		.close = session_close,
		.arg = m,
	};
	uint8_t address[4];

	if (!parse_address(c->ipv4_address, address)) {
		err_set(e, EINVAL, "ipv4_address: '%s'", c->ipv4_address);
		return NULL;
	}
	m->config = c;
	return mmdsnet_create(loop, address, &service, &m->count, e);
}
