/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request to spore's API over its Unix socket. Errors name the socket, or are what spore has
 * answered.
 */
#pragma once

#include "ctl/ctl.h"

/* How long an answer may take, seconds: of a question, and of something that writes memory. */
#define HTTP_QUICK 10
#define HTTP_LONG  3600

struct http_call {
	const char *socket, *method, *path;
	const json_t *body; /* borrowed; NULL: none */
	long seconds;	    /* 0: HTTP_QUICK */
	/* Called about ten times a second while the answer is awaited; NULL: not. Others: not 0 ends it. */
	int (*tick)(void *arg);
	/* Gets the answer line by line as it comes, without the newline; other than 0 ends it well. */
	int (*line)(void *arg, const char *line);
	void *arg;
};

struct http_answer {
	int status;   /* 200.. */
	json_t *body; /* when it is JSON, else NULL */
	char *text;   /* when it is not; may be NULL */
};

/*
 * 0 when the status is 2xx; else -errno with `e` filled: -ECONNREFUSED or -ENOENT when nobody listens,
 * -EBADMSG for a refusal, with spore's words. `answer` may be NULL; the caller finishes it when 0 was
 * returned.
 */
int http_call(struct ctl *c, const struct http_call *call, struct http_answer *answer,
	      struct err *e);
void http_answer_finish(struct http_answer *answer);

/* Loads libcurl, which the first request does otherwise: for who has no time left when it comes to that. */
int http_load(struct ctl *c, struct err *e);

/* The most frequent forms; http_put takes `body`. */
int http_ask(struct ctl *c, const char *socket, const char *path, json_t **body, struct err *e);
int http_send(struct ctl *c, const char *socket, const char *method, const char *path, json_t *body,
	      struct err *e);
