/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stream over which a microVM moves: records in both directions. docs/migration.md has the bytes;
 * stream.c tells the order of the records and what is promised when the stream breaks.
 *
 * Each record is a header of STREAM_HEADER bytes and its body. The header has the record's number, so that
 * none can be lost or come twice, and a checksum of header and body. Checksums are for accidents: what a
 * record says is judged as if an enemy had written it.
 *
 * Reading is apart from where the bytes come from. One at a time for one object; any thread.
 */
#pragma once

#include <stdatomic.h>

#include "vmm/base/err.h"

#define STREAM_VERSION	 2u /* 2: LEFT and what follows it */
#define STREAM_OLDEST	 1u
#define STREAM_HEADER	 40u
#define STREAM_PAGES_MAX 64u	 /* of one record */
#define STREAM_BODY_MAX	 MIB(16) /* of all others; a state has some tens of KiB */
#define STREAM_TEXT_MAX	 239u

enum stream_type {
	/* from the source */
	STREAM_HELLO = 1, /* struct stream_hello */
	STREAM_SETUP,	  /* a state file of now: configuration, CPUs */
	STREAM_METADATA,  /* what the metadata service tells, JSON */
	STREAM_PAGES,	  /* `count` pages from page `first` on */
	STREAM_ZEROES,	  /* the same of pages that are zero again; no body */
	STREAM_ROUND,	  /* all of round `first` was sent; no body */
	STREAM_STATE,	  /* the state file of the stopped guest */
	STREAM_COMMIT,	  /* it is yours; `first` 1: let it run. No body */
	STREAM_ABORT,	  /* a text */
	STREAM_LEFT,  /* a bit for each page of memory: `first` of them come by PUSH and BLANK */
	STREAM_PUSH,  /* as PAGES, behind STATE */
	STREAM_BLANK, /* as ZEROES */
	/* from the target */
	STREAM_ACCEPT = 16, /* `first`: the version that both know. No body */
	STREAM_READY,	    /* `first`: pages that have come, `count`: 0. No body */
	STREAM_RUNNING,	    /* no body */
	STREAM_REFUSED,	    /* a text, instead of any of them but RUNNING */
	STREAM_WANT,	    /* page `first` of those that were left is waited for. No body */
	STREAM_DONE,	    /* all of them are there. No body */
};

enum stream_side { STREAM_FROM_SOURCE, STREAM_FROM_TARGET };

struct stream_hello {
	uint32_t oldest, newest; /* versions that the source knows */
	uint64_t mem_size;	 /* bytes */
	uint8_t id[16];		 /* of this migration, random */
};
#define STREAM_HELLO_LEN 32u

struct stream_record {
	enum stream_type type;
	uint32_t len, count;
	uint64_t first;
};

/* --- reading --- */

struct stream_in {
	enum stream_side side;
	unsigned expected; /* bits by type: which records may come now */
	uint64_t seq;	   /* of the next one */
	/*
	 * Where `count` pages from `first` on go, NULL if that is no memory. Bodies of other records are in
	 * `body`.
	 */
	void *(*place)(void *arg, uint64_t first, uint64_t count);
	void *arg;
	struct stream_record rec; /* that is complete, or whose body comes */
	/* Owned, with a zero byte behind it; of records without a body, and of texts, NULL. */
	uint8_t *body;
	char text[STREAM_TEXT_MAX + 1]; /* of REFUSED or ABORT */
	uint64_t bytes;			/* that have come */

	uint8_t header[STREAM_HEADER]; /* private, as is what follows */
	uint64_t sum;
	uint8_t *to;
	size_t have, want; /* of the header or the body */
	bool in_body;
};

void stream_in_init(struct stream_in *in, enum stream_side side);
void stream_in_finish(struct stream_in *in);
/* Where the next bytes go, and how many. Never 0. */
size_t stream_want(struct stream_in *in, void **to);
/*
 * So many of them have come. 1: a record is complete, in->rec and in->body are it until the next call; 0:
 * there is more to come; -EPROTO or another -errno: nothing more may be read.
 */
int stream_got(struct stream_in *in, size_t n, struct err *e);
/* Reads from a non-blocking `fd`. As stream_got(), 0 also when there is nothing; -ECONNRESET: it has ended. */
int stream_read(struct stream_in *in, int fd, struct err *e);
/* Reads until a record is complete. -ETIMEDOUT, or -ECANCELED when *stop. `timeout_ms` -1: no limit. */
int stream_await(struct stream_in *in, int fd, int timeout_ms, const _Atomic bool *stop,
		 struct err *e);
/* The text of a REFUSED or ABORT, printable. */
const char *stream_text(struct stream_in *in);
int stream_parse_hello(const struct stream_in *in, struct stream_hello *h, struct err *e);

/* --- writing --- */

struct stream_out {
	int fd; /* non-blocking; borrowed */
	uint64_t seq;
	_Atomic uint64_t bytes; /* that were sent */
	int timeout_ms;		/* without anything being taken */
	const _Atomic bool *stop;
	bool begun;  /* something of the last record was taken: the other side may have it */
	bool broken; /* and not all of it: nothing that follows makes sense */
};

/* The header of a record. 0 or -errno. */
int stream_encode(const struct stream_record *rec, uint64_t seq, const void *body,
		  uint8_t header[STREAM_HEADER]);
/* Sends one record: returns when all of it was taken. -ETIMEDOUT, -ECANCELED when *stop, -EPIPE... */
int stream_send(struct stream_out *out, const struct stream_record *rec, const void *body,
		struct err *e);
int stream_send_hello(struct stream_out *out, const struct stream_hello *h, struct err *e);
/* REFUSED or ABORT. */
int stream_send_text(struct stream_out *out, enum stream_type type, const char *text,
		     struct err *e);
