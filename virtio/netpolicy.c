/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/netpolicy.h"

#include <errno.h>
#include <string.h>

#include "virtio/netflow.h"

#define DHCP_CLIENT 68u
#define DHCP_SERVER 67u
#define ND_HOPS	    255u /* neighbour discovery that crossed a router is forged */
#define ND_OPTIONS  24u	 /* where they begin in solicitations and advertisements of neighbours */
#define ND_SLLA	    1u
#define ND_TLLA	    2u

/* A rule as it is compared: two words and a mask. */
struct rule {
	struct netaddr address, mask;
	uint16_t port_low, port_high;
	uint8_t protocol;
	bool any_port, allow;
};

struct netpolicy {
	struct rule rule[2][NETPOLICY_RULES_MAX];
	unsigned count[2];
	bool allow[2];
	struct netaddr address[NETPOLICY_ADDRESSES_MAX];
	unsigned addresses;
	bool has_mac;
	uint8_t mac[NETFRAME_MAC];
	struct netaddr link_local; /* from the MAC; zero without one */
	struct netflow *flow[2];   /* by the direction of the first frame */
	struct netpolicy_metrics count_of;
};

/* --- the configuration --- */

static struct netaddr mask_of(unsigned prefix)
{
	struct netaddr m = {{0, 0}};
	uint8_t *bytes = (uint8_t *)&m;

	for (unsigned i = 0; i < prefix; i++)
		bytes[i / 8] |= (uint8_t)(0x80u >> i % 8);
	return m;
}

static bool matches(const struct netaddr *a, const struct netaddr *address,
		    const struct netaddr *mask)
{
	return !(((a->word[0] ^ address->word[0]) & mask->word[0]) |
		 ((a->word[1] ^ address->word[1]) & mask->word[1]));
}

/* A decimal number up to `max` without sign or blanks; -1 when it is none. *end: behind it. */
static long parse_number(const char *text, long max, const char **end)
{
	long n = 0;

	*end = text;
	while (**end >= '0' && **end <= '9' && n <= max)
		n = n * 10 + (*(*end)++ - '0');
	return *end == text || n > max ? -1 : n;
}

int netpolicy_parse_cidr(const char *text, struct netpolicy_rule *rule)
{
	const char *slash = strchr(text, '/'), *end;
	size_t len = slash ? (size_t)(slash - text) : strlen(text);
	char address[INET6_ADDRSTRLEN];
	struct netaddr mask;
	unsigned width;
	long bits;

	if (len >= sizeof(address))
		return -EINVAL;
	memcpy(address, text, len);
	address[len] = '\0';
	if (netaddr_parse(address, &rule->address) < 0)
		return -EINVAL;
	width = netaddr_is_v4(&rule->address) ? 32 : 128;
	bits = slash ? parse_number(slash + 1, width, &end) : (long)width;
	if (bits < 0 || (slash && *end))
		return -EINVAL;
	rule->prefix = 128 - width + (unsigned)bits;
	mask = mask_of(rule->prefix);
	if ((rule->address.word[0] & ~mask.word[0]) | (rule->address.word[1] & ~mask.word[1]))
		return -EINVAL;
	rule->any_address = false;
	return 0;
}

int netpolicy_parse_ports(const char *text, struct netpolicy_rule *rule)
{
	const char *end;
	long low = parse_number(text, UINT16_MAX, &end), high = low;

	if (low >= 0 && *end == '-')
		high = parse_number(end + 1, UINT16_MAX, &end);
	if (low < 0 || high < low || *end)
		return -EINVAL;
	rule->port_low = (uint16_t)low;
	rule->port_high = (uint16_t)high;
	rule->any_port = false;
	return 0;
}

static struct rule compile(const struct netpolicy_rule *from)
{
	struct rule r = {
		.protocol = from->protocol,
		.any_port = from->any_port,
		.port_low = from->port_low,
		.port_high = from->port_high,
		.allow = from->allow,
	};

	if (!from->any_address) {
		r.mask = mask_of(from->prefix);
		r.address.word[0] = from->address.word[0] & r.mask.word[0];
		r.address.word[1] = from->address.word[1] & r.mask.word[1];
	}
	return r;
}

/* fe80::/64 and the MAC with its universal bit turned and ff:fe in the middle (RFC 4291). */
static struct netaddr link_local(const uint8_t mac[NETFRAME_MAC])
{
	const uint8_t bytes[16] = {
		0xfe,	0x80,	0,    0,    0,	    0,	    0,	    0, (uint8_t)(mac[0] ^ 2u),
		mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5],
	};

	return netaddr_v6(bytes);
}

static int check(const struct netpolicy_config *cfg, struct err *e)
{
	if (cfg->addresses > NETPOLICY_ADDRESSES_MAX)
		return err_set(e, EINVAL, "more than %d addresses", NETPOLICY_ADDRESSES_MAX);
	for (unsigned way = 0; way < 2; way++) {
		if (cfg->way[way].count > NETPOLICY_RULES_MAX)
			return err_set(e, EINVAL, "more than %d rules", NETPOLICY_RULES_MAX);
		for (unsigned i = 0; i < cfg->way[way].count; i++)
			if (cfg->way[way].rule[i].prefix > 128)
				return err_set(e, EINVAL, "rule %u: prefix too long", i);
	}
	return 0;
}

struct netpolicy *netpolicy_create(const struct netpolicy_config *cfg, const uint8_t *mac,
				   struct err *e)
{
	struct netpolicy *p = check(cfg, e) < 0 ? NULL : calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	for (unsigned way = 0; way < 2; way++) {
		p->allow[way] = cfg->way[way].allow;
		p->count[way] = cfg->way[way].count;
		for (unsigned i = 0; i < p->count[way]; i++)
			p->rule[way][i] = compile(&cfg->way[way].rule[i]);
		p->flow[way] = netflow_create();
		if (!p->flow[way]) {
			err_set(e, ENOMEM, "out of memory");
			netpolicy_destroy(p);
			return NULL;
		}
	}
	p->addresses = cfg->addresses;
	memcpy(p->address, cfg->address, sizeof(p->address));
	if (mac) {
		p->has_mac = true;
		memcpy(p->mac, mac, sizeof(p->mac));
		p->link_local = link_local(mac);
	}
	return p;
}

void netpolicy_destroy(struct netpolicy *p)
{
	if (!p)
		return;
	netflow_destroy(p->flow[0]);
	netflow_destroy(p->flow[1]);
	free(p);
}

struct netpolicy_metrics *netpolicy_metrics(struct netpolicy *p)
{
	return &p->count_of;
}

unsigned netpolicy_rule_count(const struct netpolicy *p, enum netframe_way way)
{
	return p->count[way];
}

/* --- whose frame it is --- */

static bool own_mac(const struct netpolicy *p, const uint8_t *mac)
{
	return !p->has_mac || memcmp(mac, p->mac, NETFRAME_MAC) == 0;
}

/* Without a list every address may be the guest's own. */
static bool own_address(const struct netpolicy *p, const struct netaddr *a)
{
	if (!p->addresses)
		return true;
	for (unsigned i = 0; i < p->addresses; i++)
		if (netaddr_equal(a, &p->address[i]))
			return true;
	return p->has_mac && netaddr_equal(a, &p->link_local);
}

/* Certainly the guest's own, and nobody else may have it. */
static bool claimed_address(const struct netpolicy *p, const struct netaddr *a)
{
	return p->addresses && own_address(p, a);
}

static bool is_dhcp_request(const struct netframe *f)
{
	static const uint8_t nobody[4], everybody[4] = {255, 255, 255, 255};
	struct netaddr src = netaddr_v4(nobody), dst = netaddr_v4(everybody);

	return f->fragment == NETFRAME_WHOLE && f->tuple.protocol == IPPROTO_UDP &&
	       f->tuple.sport == DHCP_CLIENT && f->tuple.dport == DHCP_SERVER &&
	       netaddr_equal(&f->tuple.src, &src) && netaddr_equal(&f->tuple.dst, &dst);
}

static bool is_icmp6(const struct netframe *f)
{
	return f->kind == NETFRAME_IPV6 && f->tuple.protocol == NETFRAME_ICMP_ANY &&
	       f->fragment == NETFRAME_WHOLE;
}

/* What an IPv6 interface says from :: while it makes sure that its address is free. */
static bool is_address_search(const struct netframe *f)
{
	return is_icmp6(f) && netaddr_is_zero(&f->tuple.src) &&
	       (f->icmp_type == NETFRAME_V6_SOLICIT || f->icmp_type == NETFRAME_V6_ROUTER_SOLICIT ||
		f->icmp_type == NETFRAME_V6_MLD_REPORT || f->icmp_type == NETFRAME_V6_MLD2_REPORT);
}

static bool is_own(const struct netpolicy *p, enum netframe_way way, const struct netframe *f)
{
	bool multicast = netframe_dst_mac(f)[0] & 1;

	if (way == NETFRAME_INGRESS)
		return (multicast || own_mac(p, netframe_dst_mac(f))) &&
		       (f->kind == NETFRAME_ARP || !claimed_address(p, &f->tuple.src));
	if (!own_mac(p, netframe_src_mac(f)))
		return false;
	return f->kind == NETFRAME_ARP || own_address(p, &f->tuple.src) || is_dhcp_request(f) ||
	       is_address_search(f);
}

/* --- ARP and neighbour discovery --- */

static bool arp_fine(const struct netpolicy *p, enum netframe_way way, const struct netframe *f)
{
	static const uint8_t nobody[4];
	struct netaddr none = netaddr_v4(nobody);
	struct netframe_arp a;

	netframe_arp(f, &a);
	if (a.operation != 1 && a.operation != 2)
		return false;
	if (way == NETFRAME_EGRESS)
		return own_mac(p, a.sender_mac) &&
		       (own_address(p, &a.sender) ||
			(a.operation == 1 && netaddr_equal(&a.sender, &none)));
	if (claimed_address(p, &a.sender))
		return false;
	/* For the guest, or an announcement of the sender's own. */
	return own_address(p, &a.target) || netaddr_equal(&a.target, &a.sender);
}

/* The link-layer address options of a neighbour or router message name the guest's own MAC. */
static bool nd_options_own(const struct netpolicy *p, const struct netframe *f, uint32_t at)
{
	while (at < f->len) {
		uint32_t len;

		if (at + 2 > f->head_len)
			return false;
		len = f->head[at + 1] * 8u;
		if (len == 0 || at + len > f->head_len)
			return false;
		if ((f->head[at] == ND_SLLA || f->head[at] == ND_TLLA) &&
		    !own_mac(p, f->head + at + 2))
			return false;
		at += len;
	}
	return true;
}

static bool nd_egress_fine(const struct netpolicy *p, const struct netframe *f,
			   const struct netaddr *target)
{
	switch (f->icmp_type) {
	case NETFRAME_V6_ROUTER_SOLICIT:
		return nd_options_own(p, f, f->l4 + 8);
	case NETFRAME_V6_SOLICIT:
		/* From ::, it asks whether its own new address is taken. */
		return (!netaddr_is_zero(&f->tuple.src) || own_address(p, target)) &&
		       nd_options_own(p, f, f->l4 + ND_OPTIONS);
	case NETFRAME_V6_ADVERT:
		return own_address(p, target) && nd_options_own(p, f, f->l4 + ND_OPTIONS);
	default:
		return false;
	}
}

static bool nd_ingress_fine(const struct netpolicy *p, const struct netframe *f,
			    const struct netaddr *target)
{
	switch (f->icmp_type) {
	case NETFRAME_V6_ROUTER_ADVERT:
		return true;
	case NETFRAME_V6_SOLICIT:
		return own_address(p, target) && !claimed_address(p, &f->tuple.src);
	case NETFRAME_V6_ADVERT:
		return !claimed_address(p, target);
	default:
		return false;
	}
}

static bool nd_fine(const struct netpolicy *p, enum netframe_way way, const struct netframe *f)
{
	struct netaddr target = {{0, 0}};

	if (f->hops != ND_HOPS)
		return false;
	if (f->icmp_type == NETFRAME_V6_SOLICIT || f->icmp_type == NETFRAME_V6_ADVERT) {
		if (f->l4 + ND_OPTIONS > f->head_len)
			return false;
		target = netaddr_v6(f->head + f->l4 + 8);
	}
	return way == NETFRAME_EGRESS ? nd_egress_fine(p, f, &target)
				      : nd_ingress_fine(p, f, &target);
}

static bool is_nd(const struct netframe *f)
{
	return is_icmp6(f) && f->icmp_type >= NETFRAME_V6_ROUTER_SOLICIT &&
	       f->icmp_type <= NETFRAME_V6_REDIRECT;
}

/* Group membership: without it a bridge that snoops would cut neighbour discovery off. */
static bool is_mld(enum netframe_way way, const struct netframe *f)
{
	if (!is_icmp6(f) || f->hops != 1)
		return false;
	return way == NETFRAME_INGRESS ? f->icmp_type == NETFRAME_V6_MLD_QUERY
				       : f->icmp_type == NETFRAME_V6_MLD_REPORT ||
						 f->icmp_type == NETFRAME_V6_MLD_DONE ||
						 f->icmp_type == NETFRAME_V6_MLD2_REPORT;
}

/* --- conversations --- */

static struct netflow_key key_of(enum netframe_way way, const struct netframe_tuple *t)
{
	if (way == NETFRAME_EGRESS)
		return (struct netflow_key){t->src,	 t->dst, t->sport, t->dport,
					    t->protocol, 0,	 0,	   0};
	return (struct netflow_key){t->dst, t->src, t->dport, t->sport, t->protocol, 0, 0, 0};
}

static struct netflow_key fragment_key(enum netframe_way way, const struct netframe *f)
{
	struct netflow_key k = key_of(way, &f->tuple);

	k.local_port = (uint16_t)f->fragment_id;
	k.remote_port = (uint16_t)(f->fragment_id >> 16);
	k.fragment_of = f->tuple.protocol;
	k.protocol = 0;
	k.kind = NETFLOW_FRAGMENT;
	return k;
}

static enum netframe_way other(enum netframe_way way)
{
	return way == NETFRAME_EGRESS ? NETFRAME_INGRESS : NETFRAME_EGRESS;
}

/* A conversation of either direction that an ICMP error, going `way`, is about. */
static bool is_related(struct netpolicy *p, enum netframe_way way, const struct netframe *f,
		       uint32_t now_s)
{
	/* What it quotes went the other way, between the error's receiver and somebody. */
	struct netflow_key k = key_of(other(way), &f->inner);

	if (!netaddr_equal(&f->inner.src, &f->tuple.dst))
		return false;
	return netflow_find(p->flow[0], &k, now_s) || netflow_find(p->flow[1], &k, now_s);
}

/* An echo request begins, only a reply answers. */
static bool may_answer(const struct netframe *f)
{
	bool v6 = f->kind == NETFRAME_IPV6;

	if (f->tuple.protocol == IPPROTO_TCP)
		return (f->tcp_flags & (NETFRAME_TCP_SYN | NETFRAME_TCP_ACK)) != NETFRAME_TCP_SYN;
	if (f->tuple.protocol == NETFRAME_ICMP_ANY)
		return f->icmp_type == (v6 ? NETFRAME_V6_ECHO_REPLY : NETFRAME_V4_ECHO_REPLY);
	return true;
}

static bool is_answer(struct netpolicy *p, enum netframe_way way, const struct netframe *f,
		      uint32_t now_s)
{
	struct netflow_key k;

	if (f->fragment == NETFRAME_LATER) {
		k = fragment_key(way, f);
		return netflow_find(p->flow[way], &k, now_s);
	}
	if (f->has_inner)
		return is_related(p, way, f, now_s);
	k = key_of(way, &f->tuple);
	return may_answer(f) && netflow_find(p->flow[other(way)], &k, now_s);
}

/* --- rules --- */

static bool rule_matches(const struct rule *r, const struct netframe_tuple *t,
			 const struct netaddr *far)
{
	if (!matches(far, &r->address, &r->mask))
		return false;
	if (r->protocol && r->protocol != t->protocol)
		return false;
	if (r->any_port)
		return true;
	return (t->protocol == IPPROTO_TCP || t->protocol == IPPROTO_UDP) &&
	       t->dport >= r->port_low && t->dport <= r->port_high;
}

static bool apply_rules(struct netpolicy *p, enum netframe_way way, const struct netframe *f)
{
	const struct netaddr *far = way == NETFRAME_EGRESS ? &f->tuple.dst : &f->tuple.src;

	for (unsigned i = 0; i < p->count[way]; i++) {
		if (!rule_matches(&p->rule[way][i], &f->tuple, far))
			continue;
		metric_inc(&p->count_of.rule[way][i]);
		return p->rule[way][i].allow;
	}
	metric_inc(&p->count_of.by_default[way]);
	return p->allow[way];
}

/* Steps 4 and 5. */
static bool judge_ip(struct netpolicy *p, enum netframe_way way, const struct netframe *f,
		     uint32_t now_s)
{
	struct netflow_key k;
	bool answer = is_answer(p, way, f, now_s);

	if (answer) {
		metric_inc(&p->count_of.answers[way]);
	} else if (f->fragment == NETFRAME_LATER && (p->count[way] || !p->allow[way])) {
		/* Without ports no rule can be asked; its first fragment did not pass. */
		metric_inc(&p->count_of.by_default[way]);
		return false;
	} else if (!apply_rules(p, way, f)) {
		return false;
	} else if (!f->has_inner) {
		k = key_of(way, &f->tuple);
		netflow_add(p->flow[way], &k, now_s);
	}
	if (f->fragment == NETFRAME_FIRST) {
		k = fragment_key(way, f);
		netflow_add(p->flow[way], &k, now_s);
	}
	return true;
}

static bool count(struct metric *yes, struct metric *no, bool fine)
{
	metric_inc(fine ? yes : no);
	return fine;
}

bool netpolicy_judge(struct netpolicy *p, enum netframe_way way, const struct netframe *f,
		     uint32_t now_s)
{
	struct netpolicy_metrics *m = &p->count_of;

	if (f->kind == NETFRAME_OTHER) {
		netpolicy_malformed(p, way);
		return false;
	}
	if (!is_own(p, way, f)) {
		metric_inc(&m->not_own[way]);
		return false;
	}
	if (f->kind == NETFRAME_ARP)
		return count(&m->neighbour[way], &m->not_own[way], arp_fine(p, way, f));
	if (is_nd(f))
		return count(&m->neighbour[way], &m->not_own[way], nd_fine(p, way, f));
	if (is_mld(way, f)) {
		metric_inc(&m->neighbour[way]);
		return true;
	}
	return judge_ip(p, way, f, now_s);
}

void netpolicy_malformed(struct netpolicy *p, enum netframe_way way)
{
	metric_inc(&p->count_of.malformed[way]);
}
