/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of virtio-vsock: one connection (vsock_conn.c), the table of them with its listener
 * and deadlines (vsock_mux.c), and the queues (vsock.c). Only these three and their tests include
 * this.
 *
 * A connection from accept or REQUEST to its end:
 *
 *	HANDSHAKE    a host client is connected and has not said CONNECT
 *	CONNECTING   the guest asked for a host socket whose backlog is full; tried again
 *	REQUESTED    the guest has been, or will be, asked to accept
 *	ESTABLISHED
 *	LINGERING    the guest is done with it; the host has yet to take what the guest sent before
 *	DEAD	     the socket is closed; the guest is owed a reset
 *
 * What the guest has to be told is never kept in packets, but as bits and counters of the
 * connection, so it needs no memory, cannot be lost when the guest gives us no buffers, and is
 * sent in one way only: vsock_conn_ready() queues the connection, vsock_pump() serves the queue.
 *
 * Flow control (section 5.10.6.3). Guest to host: we promise `buf_alloc` bytes, and keep what the
 * socket does not take in a ring of that size. The guest learns that bytes were passed on once half
 * of it may be used again. Host to guest: we read from the socket only what the guest has credit
 * for, so bytes wait in the kernel and the host's writer is the one who is stopped.
 *
 * A fast stream is read when the guest is about to have nothing to do, and then as much as there is:
 * every batch costs a wake-up, a read and an interrupt, however small it is. The guest says when, by
 * its credit updates: Linux sends one when all was read (`tells`), an older one when all but 64 KiB
 * of its window was. Who says nothing for a while is sent what there is room for, or asked. A stream
 * that is not fast is passed on at once.
 *
 * Sockets are watched edge-triggered. `readable` remembers that the socket may have more, so that a
 * guest without credit or buffers costs no wake-ups; input that comes again and again before the
 * guest wants any is not watched until a read found nothing. EPOLLOUT is watched from the time when
 * bytes are kept until it comes and none are.
 */
#pragma once

#include <sys/queue.h>
#include <sys/un.h>

#include "virtio/vsock.h"

/* Packet header, section 5.10.6. */
struct vsock_hdr {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port;
	uint32_t len;
	uint16_t type, op;
	uint32_t flags;
	uint32_t buf_alloc, fwd_cnt;
} __attribute__((packed));

#define VSOCK_TYPE_STREAM  1u
#define VSOCK_SHUTDOWN_RCV 1u
#define VSOCK_SHUTDOWN_SND 2u
#define VSOCK_SHUTDOWN_ALL 3u
#define VSOCK_PACKET_MAX   KIB(64) /* bytes of data in one packet, either way */

enum vsock_op {
	VSOCK_OP_REQUEST = 1,
	VSOCK_OP_RESPONSE,
	VSOCK_OP_RST,
	VSOCK_OP_SHUTDOWN,
	VSOCK_OP_RW,
	VSOCK_OP_CREDIT_UPDATE,
	VSOCK_OP_CREDIT_REQUEST,
};

enum vsock_conn_state {
	VSOCK_FREE,
	VSOCK_HANDSHAKE,
	VSOCK_CONNECTING,
	VSOCK_REQUESTED,
	VSOCK_ESTABLISHED,
	VSOCK_LINGERING,
	VSOCK_DEAD,
};

#define VSOCK_TIMEOUT_NS  2000000000ull /* for an answer to REQUEST, and to SHUTDOWN of both */
#define VSOCK_RETRY_NS	  20000000ull	/* a full backlog, or no file descriptors */
#define VSOCK_PATIENCE_NS 20000000ull	/* with a guest that owes news of its credit */

/*
 * The first connections get room for a fast stream, the rest what Firecracker gives. More than what
 * an empty socket takes at once (net.core.wmem_default) would be sent in two writes each time.
 */
#define VSOCK_BIG_SLOTS	 64u
#define VSOCK_BIG_ALLOC	 KIB(208)
#define VSOCK_ALLOC	 KIB(64)
#define VSOCK_READ_MAX	 KIB(256) /* asked of a socket at once */
#define VSOCK_READ_FIRST KIB(16)  /* ... until it has more */
#define VSOCK_NEWS_SURE	 KIB(64)  /* Linux tells when all but so much of its window was read */

struct vsock;
struct vsock_conn;

TAILQ_HEAD(vsock_list, vsock_conn);

/* Connections that wait for the same, which comes too late for each after `ns`. */
struct vsock_waits {
	struct vsock_list list; /* by time */
	struct loop_timer timer;
	uint64_t ns;
};

/* All fields [s]. Counters of bytes run freely through 2^32, as in the header. */
struct vsock_conn {
	struct vsock *v;
	struct loop_source host; /* fd -1: closed */
	enum vsock_conn_state state;
	uint32_t host_port, guest_port;
	uint16_t owed; /* bit per enum vsock_op that the guest is to be sent */

	/* guest to host */
	uint32_t buf_alloc; /* [I] size of `kept` */
	uint32_t got;	    /* bytes that came from the guest */
	uint32_t passed;    /* ... that the host took: fwd_cnt */
	uint32_t told;	    /* fwd_cnt in the last packet to the guest */
	uint8_t *kept;	    /* [I] ring of what the socket did not take */
	uint32_t kept_at, kept_len;

	/* host to guest */
	uint32_t sent;		   /* bytes that went to the guest */
	uint32_t peer_alloc;	   /* the guest's buf_alloc */
	uint32_t peer_passed;	   /* the guest's fwd_cnt */
	uint32_t guess;		   /* bytes to ask the socket for */
	uint8_t guest_shut;	   /* VSOCK_SHUTDOWN_* that the guest sent */
	uint8_t shut_sent;	   /* ... that we sent */
	bool readable;		   /* the socket may have bytes, or its end */
	bool end_near;		   /* ... and its end for sure */
	bool hup;		   /* the host closed both directions */
	bool ended;		   /* the host will send no more, and all of it was read */
	bool deaf;		   /* the host takes no more: what the guest sends is thrown away */
	uint32_t watched;	   /* events of the socket */
	bool fast;		   /* the host has more to send than was asked for */
	bool tells;		   /* the guest: when it has taken everything */
	bool asked;		   /* for credit, since there was some */
	bool hashed;		   /* to be found by its ports */
	bool queued;		   /* in vsock.ready */
	struct vsock_waits *waits; /* in this list, or NULL */
	uint64_t deadline_ns;	   /* when it waits */
	struct vsock_conn *chain;  /* in its hash bucket */
	TAILQ_ENTRY(vsock_conn) ready, waiting;
};

/* One buffer of the guest's that is about to be filled: its pieces are in vsock.pool. */
struct vsock_rx {
	uint16_t head;
	uint16_t first, count;
	uint32_t room; /* bytes behind the header */
};

#define VSOCK_BUCKETS	  1024u
#define VSOCK_ORPHANS_MAX 64u
#define VSOCK_RX_BATCH	  80u	/* buffers for one read: Linux gives less than 4 KiB each */
#define VSOCK_IOV_MAX	  1024u /* IOV_MAX of Linux */

struct vsock {
	struct virtio_device dev;
	struct virtq queue[3];	  /* [s] rx, tx, event */
	uint64_t guest_cid;	  /* [I] the configuration space */
	struct vsock_state state; /* [s] */
	struct vsock_metrics count;
	char uds_path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* [I] */
	struct loop_source listener, wake;			    /* [m] fds owned */
	struct loop_timer retry, again;				    /* [m] */
	bool dropped; /* [s] the guest reset the device: every connection is to go */
	/*
	 * [s] The guest may not have dealt with a transport reset: it would take connections that come
	 * meanwhile for old ones, and reset them too.
	 */
	bool reset_unseen;
	uint16_t reset_at;    /* [s] how many buffers for events there had been then */
	bool tx_waits;	      /* [s] the tx queue waits for resets to be sent */
	bool listener_paused; /* [m] no file descriptor was left for a client */

	struct vsock_conn *conn; /* [I] VSOCK_CONNS_MAX of them, owned */
	uint8_t *kept;		 /* [I] the mapping behind all conn[].kept, owned */
	uint64_t used[(VSOCK_CONNS_MAX + 63) / 64];
	struct vsock_conn *bucket[VSOCK_BUCKETS];
	struct vsock_list ready;    /* the guest has to be sent something */
	struct vsock_waits answers; /* for a packet that begins or ends a connection */
	struct vsock_waits news;    /* for credit */
	unsigned conn_count;

	/* Resets for packets that belong to no connection. */
	struct {
		uint32_t host_port, guest_port;
		uint16_t type;
	} orphan[VSOCK_ORPHANS_MAX];
	unsigned orphan_at, orphan_count;

	/* Scratch of the queue callbacks; empty between them. */
	struct virtq_chain chain;
	struct vsock_rx rx[VSOCK_RX_BATCH];
	unsigned rx_at, rx_end;
	struct iovec pool[VSOCK_IOV_MAX]; /* of rx[] */
	unsigned pool_len;
	struct iovec iov[VSOCK_IOV_MAX]; /* of one system call */
	struct {
		struct vsock_conn *c;
		unsigned iovs, heads;
		uint32_t bytes;
		uint16_t head[VIRTQ_SIZE_MAX];
	} batch; /* packets of one connection that become one write */
};

/* --- vsock_conn.c --- */

/* What entry `c` of v->conn is in this state, with `fd` (owned; -1: none yet). */
void vsock_conn_init(struct vsock *v, struct vsock_conn *c, enum vsock_conn_state state, int fd);
/* Has the guest sent what it is owed; nothing happens when that is nothing. */
void vsock_conn_ready(struct vsock_conn *c);
/* A packet of the guest's for `c` that is not RW. `h` is a copy. May free `c`. */
void vsock_conn_packet(struct vsock_conn *c, const struct vsock_hdr *h);
/* Takes over the guest's flow control fields, and goes on sending when they allow it. */
void vsock_conn_credit(struct vsock_conn *c, const struct vsock_hdr *h);
/* Whether the guest may send `len` bytes now; otherwise `c` is dead. */
bool vsock_conn_accepts(struct vsock_conn *c, uint32_t len);
/* Passes `len` bytes, accepted before, on to the host. May free `c`. */
void vsock_conn_write(struct vsock_conn *c, struct iovec *iov, unsigned iovs, uint32_t len);
/* The socket is there: the guest's request is answered. */
void vsock_conn_connected(struct vsock_conn *c);
/* Closes the socket and owes the guest a reset. May free `c`. */
void vsock_conn_kill(struct vsock_conn *c);
/* No news of the guest's credit came in time. */
void vsock_conn_insist(struct vsock_conn *c);

/* How many bytes of the socket the guest takes now; 0 also when there is no reason to look. */
uint32_t vsock_conn_wants(const struct vsock_conn *c);
/* A read of `asked` bytes gave `n` (or -errno). `cut`: the kernel ended it early. */
void vsock_conn_was_read(struct vsock_conn *c, ssize_t n, size_t asked, bool cut);
/* The packet to be sent now: before any data, or else after it. 0: none. */
enum vsock_op vsock_conn_next(const struct vsock_conn *c, bool before_data);
/* Header of a packet for the guest; counts as sent. */
void vsock_conn_header(struct vsock_conn *c, enum vsock_op op, uint32_t len, struct vsock_hdr *h);
/* That packet is in the guest's buffer. May free `c`. */
void vsock_conn_was_sent(struct vsock_conn *c, enum vsock_op op);

/* --- vsock_mux.c --- */

int vsock_mux_init(struct vsock *v, const struct vsock_setup *cfg, struct err *e);
/* Also of a half-built one. */
void vsock_mux_finish(struct vsock *v);
struct vsock_conn *vsock_mux_find(struct vsock *v, uint32_t host_port, uint32_t guest_port);
/* NULL when there are VSOCK_CONNS_MAX. Takes `fd` only when it succeeds. */
struct vsock_conn *vsock_mux_add(struct vsock *v, enum vsock_conn_state state, int fd);
void vsock_mux_free(struct vsock_conn *c);
void vsock_mux_hash(struct vsock_conn *c);
void vsock_mux_unhash(struct vsock_conn *c);
/* A port for a connection of a host client to `guest_port`. */
uint32_t vsock_mux_host_port(struct vsock *v, uint32_t guest_port);
/* `c` waits in `w`, from when it began to; NULL: for nothing. */
void vsock_mux_wait(struct vsock_conn *c, struct vsock_waits *w);
/* Starts watching the socket that `c` got. */
int vsock_mux_watch(struct vsock_conn *c);
/* The guest wants to connect. */
void vsock_mux_request(struct vsock *v, const struct vsock_hdr *h);
/* True when the device was reset meanwhile: every connection has been freed. */
bool vsock_mux_settle(struct vsock *v);
void vsock_mux_drop_all(struct vsock *v);
/* A socket's callback (vsock_conn.c). */
void vsock_conn_event(struct loop_source *s, uint32_t events);

/* --- vsock.c --- */

/* A reset for a packet that belongs to no connection. The caller sees to it that there is room. */
void vsock_orphan(struct vsock *v, const struct vsock_hdr *h);
/* Sends the guest what it is owed, as far as it gave us buffers. */
void vsock_pump(struct vsock *v);
