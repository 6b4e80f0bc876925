/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Network interfaces as the user asked for them: the plain data behind PUT and PATCH of
 * /network-interfaces and "network-interfaces" of the config file (vmm/config.h tells the rules).
 * Field names are Firecracker's; what spore adds is marked (+). Main thread.
 */
#pragma once

#include "virtio/device.h"
#include "virtio/limiter.h"
#include "virtio/netbackend.h"
#include "virtio/netpolicy.h"
#include "virtio/netrewrite.h"

#define NETCONFIG_ID_MAX  64
#define NETCONFIG_MAX	  16
#define NETCONFIG_MAC_LEN 17

struct config;

/* (+) One rule of a policy, as texts. */
struct net_rule_config {
	bool allow;
	unsigned protocol; /* 0: any, else as in struct netpolicy_rule */
	char address[48];  /* CIDR; "": any */
	char ports[12];	   /* "80", "8000-8999"; "": any */
};

/* (+) virtio/netpolicy.h */
struct net_policy_config {
	struct vector addresses;	  /* char[48] */
	struct vector egress, ingress;	  /* struct net_rule_config */
	bool egress_allow, ingress_allow; /* the defaults */
};

/* (+) virtio/netrewrite.h */
struct net_pair_config {
	char guest[16], host[16];
};

struct net_rewrite_config {
	struct vector addresses;	      /* struct net_pair_config */
	char host_mac[NETCONFIG_MAC_LEN + 1]; /* "": the guest's own */
};

struct net_limits {
	struct limiter_config rx, tx;
};

struct net_interface {
	char id[NETCONFIG_ID_MAX + 1];
	/* Exactly one of three, or of a placeholder also none: */
	char *host_dev_name; /* a tap */
	char *passt_socket;  /* (+) */
	uint64_t tap_fd;     /* (+) inherited; NETCONFIG_NO_FD: none */
	bool placeholder;    /* (+) its tap may come, and go, while the guest runs */

	char guest_mac[NETCONFIG_MAC_LEN + 1]; /* "": the guest chooses */
	unsigned mtu;			       /* 0: not told to the guest */
	unsigned queue_pairs;		       /* (+) 1..NETBACKEND_PAIRS_MAX; taps only */
	struct net_limits limits;
	struct net_policy_config *policy;   /* (+) owned, or NULL */
	struct net_rewrite_config *rewrite; /* (+) owned, or NULL */
	int fd[NETBACKEND_PAIRS_MAX];	    /* taps, or the socket in fd[0]; -1 until opened */
};

#define NETCONFIG_NO_FD UINT64_MAX

/* PATCH: what is to be changed of a running interface. */
struct net_update {
	char id[NETCONFIG_ID_MAX + 1];
	struct net_limits limits;	    /* as they shall be */
	struct net_policy_config *policy;   /* NULL: stays */
	struct net_rewrite_config *rewrite; /* NULL: stays */
	/* A placeholder gets one of these two, or loses the one that it has: */
	char *host_dev_name;
	uint64_t tap_fd; /* NETCONFIG_NO_FD: none */
	bool empty;
};

/* The values that make up a device (virtio/net.h) out of the texts, all judged. */
struct net_built {
	bool has_mac, has_rewrite;
	uint8_t mac[NETFRAME_MAC];
	struct netrewrite rewrite;
	struct netpolicy *policy; /* owned, or NULL */
};

void net_interface_init(struct net_interface *n);
void net_interface_finish(struct net_interface *n);
void net_rewrite_config_free(struct net_rewrite_config *w);
/* Nothing to change, with the limits of `n` (NULL: none). */
void net_update_init(struct net_update *u, const struct net_interface *n);
void net_update_finish(struct net_update *u);

/* Replaces the interface with the same id, else adds one. Opens tap or socket at once. */
int config_set_net(struct config *c, struct net_interface *piece, struct err *e);
/* The interface with this id, or NULL. */
struct net_interface *config_find_net(struct config *c, const char *id);

/*
 * Judges guest_mac, policy and rewriting. 0 with `b` filled, whose policy is the caller's, or -errno
 * with `e` filled, beginning with the field.
 */
int net_interface_build(const char *guest_mac, const struct net_policy_config *policy,
			const struct net_rewrite_config *rewrite, struct net_built *b,
			struct err *e);

/* The device of an interface that config_set_net() took. NULL with `e` filled. */
struct virtio_device *net_interface_create(const struct net_interface *n,
					   const struct virtio_env *env, struct err *e);
/* A piece for net_interface_fill(): what placeholder `n` was declared to be, without a tap. */
void net_interface_slot(const struct net_interface *n, struct net_interface *piece);
/*
 * PUT after the start as an update: `piece` has to be placeholder `n` as it was declared, but for its
 * tap, limits, policy and rewriting. What it says of those goes into `u`.
 */
int net_interface_fill(const struct net_interface *n, struct net_interface *piece,
		       struct net_update *u, struct err *e);
/* Changes the running device and what `n` says; takes what is in `u`. Fails before any change. */
int net_interface_update(struct net_interface *n, struct virtio_device *d, struct net_update *u,
			 struct err *e);
