/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP/1.x requests out of a stream of bytes, and responses into one (RFC 9112).
 *
 * The grammar is the library's: llhttp when built with SPORE_LLHTTP, else its predecessor
 * http-parser (Debian 12). This file sets the limits, collects one request at a time and hides
 * which library it was. No sockets here. Main thread.
 */
#pragma once

#include "vmm/base/err.h"

#define HTTP_TARGET_MAX	 1024 /* bytes of the request target */
#define HTTP_HEADER_MAX	 1024 /* bytes of one header's name and value */
#define HTTP_HEADERS_MAX 64   /* headers and trailers of one request */

#define HTTP_KEEP_MAX  8   /* headers that a reader keeps */
#define HTTP_NAME_MAX  48  /* of those: bytes of a name */
#define HTTP_VALUE_MAX 160 /* and of a value; what is behind it is cut off */

enum http_verb { HTTP_VERB_OTHER, HTTP_VERB_GET, HTTP_VERB_PUT, HTTP_VERB_PATCH, HTTP_VERB_DELETE };

struct http_request {
	enum http_verb verb;
	const char *method;		  /* as sent; static */
	char target[HTTP_TARGET_MAX + 1]; /* as sent */
	const char *body;		  /* NULL when there is none; owned by the reader */
	size_t body_len;
	bool keep_alive;
	bool chunks; /* the client understands chunked transfer coding (HTTP/1.1) */
	/* Filled by the server: by what it can be answered later, and descriptors that came with it. */
	uint64_t ticket;
	const int *passed; /* borrowed until the handler returns */
	unsigned passed_count;
};

/*
 * A body that comes bit by bit and ends only with the connection. read() stores up to `size` bytes
 * of what follows *at, which is 0 at first and belongs to the reader, and returns how many: 0 when
 * there is nothing more at the moment.
 */
struct http_stream {
	size_t (*read)(void *arg, uint64_t *at, char *buf, size_t size);
	void *arg;
};

struct http_response {
	int status;
	char *body;	  /* text or NULL; malloc'ed, owned by the response */
	const char *type; /* of the body; NULL: JSON. Static */
	/* Instead of a body; borrowed for the life of the server. NULL: none. */
	const struct http_stream *stream;
	char extra[80];	 /* header lines with their ends, or "" */
	bool chunked;	 /* of `stream`: in chunked transfer coding */
	bool deprecated; /* adds "Deprecation: true" */
	bool no_body;	 /* the answer to HEAD: headers as if `body` followed */
	bool keep_alive;
	bool later; /* there is no answer yet (api-sock/server.h) */
};

enum http_event {
	HTTP_MORE,  /* everything was consumed, the request is not complete */
	HTTP_READY, /* http_get() has a request; call http_next() before feeding on */
	HTTP_BAD,   /* the stream is broken from here on; http_error() has the answer */
};

struct http_reader;

/* Bodies over `max_body` bytes are refused with 413. NULL when out of memory. */
struct http_reader *http_create(size_t max_body);
void http_destroy(struct http_reader *h);

/* Keeps the values of these headers of each request: up to HTTP_KEEP_MAX names, borrowed, then NULL. */
void http_keep(struct http_reader *h, const char *const *names);
/* What the request that is ready has for names[i]; NULL: nothing. Valid until http_next(). */
const char *http_kept(const struct http_reader *h, unsigned i);

/* Feeds `len` bytes; *used says how many of them belong to the request that is now ready. */
enum http_event http_feed(struct http_reader *h, const char *buf, size_t len, size_t *used);
/* The request that is ready; valid until http_next(). */
const struct http_request *http_get(const struct http_reader *h);
void http_next(struct http_reader *h);

/* Some bytes of a request have come, but not all. */
bool http_partial(const struct http_reader *h);
/* Once for each request: its client waits for "100 Continue" before it sends the body. */
bool http_wants_continue(struct http_reader *h);
/* Fills the answer to what made http_feed() say HTTP_BAD. */
void http_error(const struct http_reader *h, struct http_response *r);

/* {"fault_message": <message>}; `message` is made valid UTF-8 first. The old body is freed. */
void http_respond_fault(struct http_response *r, int status, const char *message);
/* The response as bytes, malloc'ed; frees r->body. NULL when out of memory. */
char *http_print(struct http_response *r, size_t *len);
