/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/netconfig.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <strings.h>

#include "virtio/net.h"
#include "virtio/netpasst.h"
#include "virtio/nettap.h"
#include "vmm/base/fd.h"
#include "vmm/config.h"

void net_interface_init(struct net_interface *n)
{
	*n = (struct net_interface){.tap_fd = NETCONFIG_NO_FD, .queue_pairs = 1};
	for (unsigned i = 0; i < NETBACKEND_PAIRS_MAX; i++)
		n->fd[i] = -1;
}

static void net_policy_config_free(struct net_policy_config *p)
{
	if (!p)
		return;
	free(p->addresses.item);
	free(p->egress.item);
	free(p->ingress.item);
	free(p);
}

void net_rewrite_config_free(struct net_rewrite_config *w)
{
	if (!w)
		return;
	free(w->addresses.item);
	free(w);
}

void net_interface_finish(struct net_interface *n)
{
	free(n->host_dev_name);
	free(n->passt_socket);
	net_policy_config_free(n->policy);
	net_rewrite_config_free(n->rewrite);
	for (unsigned i = 0; i < NETBACKEND_PAIRS_MAX; i++)
		fd_close(&n->fd[i]);
	net_interface_init(n);
}

void net_update_init(struct net_update *u, const struct net_interface *n)
{
	*u = (struct net_update){.tap_fd = NETCONFIG_NO_FD};
	if (n)
		u->limits = n->limits;
}

void net_update_finish(struct net_update *u)
{
	net_policy_config_free(u->policy);
	net_rewrite_config_free(u->rewrite);
	free(u->host_dev_name);
	net_update_init(u, NULL);
}

struct net_interface *config_find_net(struct config *c, const char *id)
{
	for (unsigned i = 0; i < c->net_count; i++)
		if (strcmp(c->net[i].id, id) == 0)
			return &c->net[i];
	return NULL;
}

/* --- texts --- */

static int hex(char ch)
{
	if (ch >= '0' && ch <= '9')
		return ch - '0';
	if (ch >= 'a' && ch <= 'f')
		return ch - 'a' + 10;
	return ch >= 'A' && ch <= 'F' ? ch - 'A' + 10 : -1;
}

static int parse_mac(const char *field, const char *text, uint8_t mac[NETFRAME_MAC], struct err *e)
{
	bool fine = strlen(text) == NETCONFIG_MAC_LEN;

	for (unsigned i = 0; fine && i < NETFRAME_MAC; i++) {
		int high = hex(text[3 * i]), low = hex(text[3 * i + 1]);

		fine = high >= 0 && low >= 0 && (i == NETFRAME_MAC - 1 || text[3 * i + 2] == ':');
		mac[i] = (uint8_t)(high * 16 + low);
	}
	if (!fine)
		return err_set(e, EINVAL, "%s: '%.20s' is not a MAC address", field, text);
	if (mac[0] & 1)
		return err_set(e, EINVAL, "%s: '%s' is a multicast address", field, text);
	return 0;
}

static int build_rule(const struct net_rule_config *from, struct netpolicy_rule *r, struct err *e)
{
	bool has_ports = from->ports[0];

	*r = (struct netpolicy_rule){
		.allow = from->allow,
		.protocol = (uint8_t)from->protocol,
		.any_address = true,
		.any_port = true,
	};
	if (from->address[0] && netpolicy_parse_cidr(from->address, r) < 0)
		return err_set(e, EINVAL, "address: '%s' is neither an address nor a network",
			       from->address);
	if (has_ports && netpolicy_parse_ports(from->ports, r) < 0)
		return err_set(e, EINVAL, "ports: '%s' is neither a port nor a range", from->ports);
	if (has_ports && r->protocol != IPPROTO_TCP && r->protocol != IPPROTO_UDP)
		return err_set(e, EINVAL, "ports: only with protocol Tcp or Udp");
	return 0;
}

static int build_rules(const char *field, const struct vector *from, bool allow,
		       struct netpolicy_rules *to, struct err *e)
{
	const struct net_rule_config *rule = from->item;

	to->allow = allow;
	if (from->count > NETPOLICY_RULES_MAX)
		return err_set(e, EINVAL, "%s: more than %d rules", field, NETPOLICY_RULES_MAX);
	for (unsigned i = 0; i < from->count; i++)
		if (build_rule(&rule[i], &to->rule[to->count++], e) < 0)
			return err_wrap(e, "%s: item %u", field, i);
	return 0;
}

static int build_policy(const struct net_policy_config *from, const uint8_t *mac,
			struct netpolicy **policy, struct err *e)
{
	cleanup_free struct netpolicy_config *to = calloc(1, sizeof(*to));
	const char(*address)[48] = from->addresses.item;
	int r;

	if (!to)
		return err_set(e, ENOMEM, "out of memory");
	r = build_rules("egress", &from->egress, from->egress_allow, &to->way[NETFRAME_EGRESS], e);
	if (r == 0)
		r = build_rules("ingress", &from->ingress, from->ingress_allow,
				&to->way[NETFRAME_INGRESS], e);
	if (r == 0 && from->addresses.count > NETPOLICY_ADDRESSES_MAX)
		r = err_set(e, EINVAL, "addresses: more than %d", NETPOLICY_ADDRESSES_MAX);
	for (unsigned i = 0; r == 0 && i < from->addresses.count; i++)
		if (netaddr_parse(address[i], &to->address[to->addresses++]) < 0)
			r = err_set(e, EINVAL, "addresses: '%s' is not an address", address[i]);
	if (r < 0)
		return r;
	*policy = netpolicy_create(to, mac, e);
	return *policy ? 0 : -e->code;
}

static int build_rewrite(const struct net_rewrite_config *from, struct net_built *b, struct err *e)
{
	const struct net_pair_config *pair = from->addresses.item;
	struct netrewrite *to = &b->rewrite;

	if (from->addresses.count > NETREWRITE_PAIRS_MAX)
		return err_set(e, EINVAL, "addresses: more than %d", NETREWRITE_PAIRS_MAX);
	for (unsigned i = 0; i < from->addresses.count; i++) {
		struct netrewrite_pair *p = &to->pair[to->count++];

		if (netaddr_parse(pair[i].guest, &p->inside) < 0)
			return err_set(e, EINVAL, "addresses: item %u: guest: '%s'", i,
				       pair[i].guest);
		if (netaddr_parse(pair[i].host, &p->outside) < 0)
			return err_set(e, EINVAL, "addresses: item %u: host: '%s'", i,
				       pair[i].host);
	}
	if (from->host_mac[0]) {
		if (!b->has_mac)
			return err_set(e, EINVAL, "host_mac: needs guest_mac");
		if (parse_mac("host_mac", from->host_mac, to->outside_mac, e) < 0)
			return -EINVAL;
		to->has_mac = true;
		memcpy(to->inside_mac, b->mac, NETFRAME_MAC);
	}
	return netrewrite_check(to, e) < 0 ? err_wrap(e, "addresses") : 0;
}

int net_interface_build(const char *guest_mac, const struct net_policy_config *policy,
			const struct net_rewrite_config *rewrite, struct net_built *b,
			struct err *e)
{
	*b = (struct net_built){.has_mac = guest_mac[0], .has_rewrite = rewrite};
	if (b->has_mac && parse_mac("guest_mac", guest_mac, b->mac, e) < 0)
		return -EINVAL;
	if (rewrite && build_rewrite(rewrite, b, e) < 0)
		return err_wrap(e, "rewrite");
	if (policy && build_policy(policy, b->has_mac ? b->mac : NULL, &b->policy, e) < 0)
		return err_wrap(e, "policy");
	return 0;
}

/* --- judging a piece --- */

static int check_choice(const struct net_interface *n, struct err *e)
{
	unsigned ways = (n->host_dev_name ? 1u : 0u) + (n->passt_socket ? 1u : 0u) +
			(n->tap_fd != NETCONFIG_NO_FD ? 1u : 0u);

	if (ways == 0 && !n->placeholder)
		return err_set(e, EINVAL, "host_dev_name: missing");
	if (n->passt_socket && n->placeholder)
		return err_set(e, EINVAL, "placeholder: for taps only, not with passt_socket");
	if (ways > 1)
		return err_set(e, EINVAL,
			       "host_dev_name: not together with passt_socket or tap_fd");
	if (n->queue_pairs > 1 && !n->host_dev_name && !n->placeholder)
		return err_set(e, EINVAL, "queue_pairs: more than 1 only with host_dev_name");
	if (n->tap_fd != NETCONFIG_NO_FD && n->tap_fd > INT32_MAX)
		return err_set(e, EINVAL, "tap_fd: not a file descriptor");
	return 0;
}

static int check_net(const struct config *c, const struct net_interface *n,
		     const struct net_interface *old, struct err *e)
{
	struct net_built b;
	int r = check_choice(n, e);

	if (r < 0)
		return r;
	if (!old && c->net_count == NETCONFIG_MAX)
		return err_set(e, ENOSPC, "iface_id: there are %d interfaces already",
			       NETCONFIG_MAX);
	for (unsigned i = 0; n->guest_mac[0] && i < c->net_count; i++)
		if (&c->net[i] != old && strcasecmp(c->net[i].guest_mac, n->guest_mac) == 0)
			return err_set(e, EINVAL, "The MAC address is already in use: %s",
				       n->guest_mac);
	r = net_interface_build(n->guest_mac, n->policy, n->rewrite, &b, e);
	if (r == 0)
		netpolicy_destroy(b.policy);
	return r;
}

/* The same tap or socket as before stays open: it would be busy for a second time. */
static bool same_backend(const struct net_interface *a, const struct net_interface *b)
{
	if (a->queue_pairs != b->queue_pairs)
		return false;
	if (a->host_dev_name && b->host_dev_name)
		return strcmp(a->host_dev_name, b->host_dev_name) == 0;
	return a->passt_socket && b->passt_socket && strcmp(a->passt_socket, b->passt_socket) == 0;
}

static int open_net(struct net_interface *n, struct err *e)
{
	int r;

	if (n->host_dev_name) {
		r = nettap_open(n->host_dev_name, n->queue_pairs, n->fd, e);
		return r < 0 ? err_wrap(e, "host_dev_name") : 0;
	}
	if (n->passt_socket) {
		r = netpasst_connect(n->passt_socket, e);
		if (r < 0)
			return err_wrap(e, "passt_socket");
		n->fd[0] = r;
		return 0;
	}
	if (n->tap_fd == NETCONFIG_NO_FD)
		return 0;
	if (n->queue_pairs > 1)
		return err_set(e, EINVAL, "tap_fd: is one queue pair, queue_pairs are %u",
			       n->queue_pairs);
	if (nettap_check((int)n->tap_fd, e) < 0)
		return err_wrap(e, "tap_fd");
	/* Reading it must not wait, for nobody who shares it. */
	n->fd[0] = fcntl((int)n->tap_fd, F_DUPFD_CLOEXEC, 0);
	if (n->fd[0] < 0 || fcntl(n->fd[0], F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		return err_sys(e, "tap_fd");
	return 0;
}

int config_set_net(struct config *c, struct net_interface *piece, struct err *e)
{
	struct net_interface *old = config_find_net(c, piece->id);
	int r = check_net(c, piece, old, e);

	if (r < 0)
		return r;
	if (old && same_backend(old, piece)) {
		for (unsigned i = 0; i < NETBACKEND_PAIRS_MAX; i++)
			piece->fd[i] = TAKE_FD(old->fd[i]);
	} else {
		r = open_net(piece, e);
		if (r < 0)
			return r;
	}
	if (old)
		net_interface_finish(old);
	else
		old = &c->net[c->net_count++];
	*old = *piece;
	net_interface_init(piece);
	return 0;
}

/* --- the device --- */

/* The device has its own descriptors, so that a failed start leaves the configuration whole. */
static struct netbackend *create_backend(const struct net_interface *n, struct err *e)
{
	int fd[NETBACKEND_PAIRS_MAX] = {-1, -1, -1};
	struct netbackend *b = NULL;
	bool fine = true;

	for (unsigned i = 0; i < n->queue_pairs && fine; i++) {
		fd[i] = fcntl(n->fd[i], F_DUPFD_CLOEXEC, 0);
		fine = fd[i] >= 0;
	}
	if (!fine)
		err_sys(e, "duplicate its file descriptor");
	else if (n->passt_socket)
		b = netpasst_create(fd[0], e);
	else
		b = nettap_create(fd, n->queue_pairs, e);
	for (unsigned i = 0; !b && i < NETBACKEND_PAIRS_MAX; i++)
		fd_close(&fd[i]);
	return b;
}

static bool has_backend(const struct net_interface *n)
{
	return n->fd[0] >= 0;
}

struct virtio_device *net_interface_create(const struct net_interface *n,
					   const struct virtio_env *env, struct err *e)
{
	struct net_config c = {
		.id = n->id,
		.mtu = (uint16_t)n->mtu,
		.rx = n->limits.rx,
		.tx = n->limits.tx,
		.placeholder = n->placeholder,
		.pairs = n->queue_pairs,
		.offloads = n->placeholder ? NETTAP_OFFLOADS : 0,
	};
	struct virtio_device *d = NULL;
	struct netbackend *backend = NULL;
	struct net_built b;

	if (net_interface_build(n->guest_mac, n->policy, n->rewrite, &b, e) < 0)
		return NULL;
	c.mac = b.has_mac ? b.mac : NULL;
	if (has_backend(n))
		backend = create_backend(n, e);
	if (backend || !has_backend(n))
		d = net_create(&c, backend, env, e);
	if (!d) {
		if (backend)
			backend->ops->destroy(backend);
		netpolicy_destroy(b.policy);
		return NULL;
	}
	netguard_set_policy(net_guard(d), b.policy);
	netguard_set_rewrite(net_guard(d), b.has_rewrite ? &b.rewrite : NULL);
	return d;
}

/* --- changes while the guest runs --- */

void net_interface_slot(const struct net_interface *n, struct net_interface *piece)
{
	net_interface_init(piece);
	piece->mtu = n->mtu;
	piece->queue_pairs = n->queue_pairs;
	piece->limits = n->limits;
	piece->placeholder = true;
	strcpy(piece->guest_mac, n->guest_mac);
}

int net_interface_fill(const struct net_interface *n, struct net_interface *piece,
		       struct net_update *u, struct err *e)
{
	const struct {
		const char *field;
		bool same;
	} fixed[] = {
		{"guest_mac", strcasecmp(n->guest_mac, piece->guest_mac) == 0},
		{"mtu", piece->mtu == n->mtu},
		{"queue_pairs", piece->queue_pairs == n->queue_pairs},
		{"placeholder", piece->placeholder},
		{"passt_socket", !piece->passt_socket},
	};

	for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
		if (!fixed[i].same)
			return err_set(e, EINVAL, "%s: not as the placeholder was declared",
				       fixed[i].field);
	if (!piece->host_dev_name && piece->tap_fd == NETCONFIG_NO_FD)
		return err_set(e, EINVAL, "host_dev_name: missing");
	strcpy(u->id, piece->id);
	u->limits = piece->limits;
	u->policy = TAKE(piece->policy);
	u->rewrite = TAKE(piece->rewrite);
	u->host_dev_name = TAKE(piece->host_dev_name);
	u->tap_fd = piece->tap_fd;
	return 0;
}

static bool fills(const struct net_update *u)
{
	return u->host_dev_name || u->tap_fd != NETCONFIG_NO_FD;
}

/* The tap of `u` as an interface like `n`: opened, to be finished by the caller in any case. */
static int open_tap(const struct net_interface *n, struct net_update *u, struct net_interface *to,
		    struct err *e)
{
	int r;

	to->placeholder = n->placeholder;
	to->queue_pairs = n->queue_pairs;
	to->host_dev_name = TAKE(u->host_dev_name);
	to->tap_fd = u->tap_fd;
	if (!n->placeholder)
		return err_set(e, EINVAL, "host_dev_name: '%s' is no placeholder", n->id);
	r = check_choice(to, e);
	return r < 0 ? r : open_net(to, e);
}

static void swap_tap(struct net_interface *n, struct net_interface *with)
{
	for (unsigned i = 0; i < NETBACKEND_PAIRS_MAX; i++) {
		fd_close(&n->fd[i]);
		n->fd[i] = TAKE_FD(with->fd[i]);
	}
	free(n->host_dev_name);
	n->host_dev_name = TAKE(with->host_dev_name);
	n->tap_fd = with->tap_fd;
}

/* Brings a tap into the device, or takes it out. */
static int update_tap(struct net_interface *n, struct virtio_device *d, struct net_update *u,
		      struct err *e)
{
	struct net_interface with;
	struct netbackend *backend = NULL;
	int r = 0;

	net_interface_init(&with);
	if (u->empty && fills(u))
		r = err_set(e, EINVAL, "host_dev_name: null, together with tap_fd");
	else if (u->empty && !n->placeholder)
		r = err_set(e, EINVAL,
			    "it cannot be unplugged: virtio-mmio has no hotplug, and '%s' is no "
			    "placeholder",
			    n->id);
	else if (!u->empty)
		r = open_tap(n, u, &with, e);
	if (r == 0 && !u->empty) {
		backend = create_backend(&with, e);
		r = backend ? 0 : -e->code;
	}
	if (r == 0) {
		pthread_mutex_lock(d->env.lock);
		r = net_set_backend(d, backend, e);
		pthread_mutex_unlock(d->env.lock);
		if (r < 0 && backend)
			backend->ops->destroy(backend);
	}
	if (r == 0)
		swap_tap(n, &with);
	net_interface_finish(&with);
	return r;
}

int net_interface_update(struct net_interface *n, struct virtio_device *d, struct net_update *u,
			 struct err *e)
{
	struct net_built b;
	int r = net_interface_build(n->guest_mac, u->policy, u->rewrite, &b, e);

	if (r == 0 && (u->empty || fills(u))) {
		r = update_tap(n, d, u, e);
		if (r < 0)
			netpolicy_destroy(b.policy);
	}
	if (r < 0)
		return r;
	pthread_mutex_lock(d->env.lock);
	if (memcmp(&n->limits, &u->limits, sizeof(u->limits)) != 0)
		net_set_limits(d, &u->limits.rx, &u->limits.tx);
	if (u->policy)
		netguard_set_policy(net_guard(d), b.policy);
	if (u->rewrite)
		netguard_set_rewrite(net_guard(d), &b.rewrite);
	pthread_mutex_unlock(d->env.lock);
	n->limits = u->limits;
	if (u->policy) {
		net_policy_config_free(n->policy);
		n->policy = TAKE(u->policy);
	}
	if (u->rewrite) {
		net_rewrite_config_free(n->rewrite);
		n->rewrite = TAKE(u->rewrite);
	}
	return 0;
}
