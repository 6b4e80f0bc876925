/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "vmm/http.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#ifdef SPORE_LLHTTP
#include <llhttp.h>
#define PARSER	 llhttp_t
#define SETTINGS llhttp_settings_t
#else
#include <http_parser.h>
#define PARSER	 http_parser
#define SETTINGS http_parser_settings
#endif

struct http_reader {
	PARSER parser;
	SETTINGS settings;
	struct http_request req;
	size_t max_body;
	char *body;
	size_t body_cap;
	size_t target_len;
	/* The header being read: its length so far, and as much of it as somebody looks at. */
	unsigned headers;
	bool in_value;
	size_t name_len, value_len;
	char name[HTTP_NAME_MAX], value[HTTP_VALUE_MAX];
	const char *const *wanted; /* names of headers to keep, up to a NULL; or NULL */
	char *kept[HTTP_KEEP_MAX]; /* their values; NULL: the request does not have it */
	bool partial, complete, wants_continue;
	int status;	    /* of a refusal of ours; 0: none */
	const char *reason; /* of it; 413 needs none */
};

/* What differs between the two libraries. */
#ifdef SPORE_LLHTTP
static void parser_init(struct http_reader *h)
{
	llhttp_init(&h->parser, HTTP_REQUEST, &h->settings);
}

/* Returns true when the grammar is content; *used as in http_feed(). */
static bool parser_run(struct http_reader *h, const char *buf, size_t len, size_t *used)
{
	llhttp_errno_t r = llhttp_execute(&h->parser, buf, len);

	*used = r == HPE_PAUSED ? (size_t)(llhttp_get_error_pos(&h->parser) - buf) : len;
	return r == HPE_OK || r == HPE_PAUSED;
}

static int parser_pause(PARSER *p)
{
	(void)p;
	return HPE_PAUSED;
}

static void parser_resume(struct http_reader *h)
{
	llhttp_resume(&h->parser);
}

static bool parser_keep_alive(const PARSER *p)
{
	return llhttp_should_keep_alive(p);
}

static const char *parser_method(const PARSER *p)
{
	return llhttp_method_name((llhttp_method_t)p->method);
}

static const char *parser_reason(const PARSER *p)
{
	const char *s = llhttp_get_error_reason(p);

	return s ? s : "syntax error";
}
#else
static void parser_init(struct http_reader *h)
{
	http_parser_init(&h->parser, HTTP_REQUEST);
}

static bool parser_run(struct http_reader *h, const char *buf, size_t len, size_t *used)
{
	*used = http_parser_execute(&h->parser, &h->settings, buf, len);
	return HTTP_PARSER_ERRNO(&h->parser) == HPE_OK ||
	       HTTP_PARSER_ERRNO(&h->parser) == HPE_PAUSED;
}

static int parser_pause(PARSER *p)
{
	http_parser_pause(p, 1);
	return 0;
}

static void parser_resume(struct http_reader *h)
{
	http_parser_pause(&h->parser, 0);
}

static bool parser_keep_alive(const PARSER *p)
{
	return http_should_keep_alive(p);
}

static const char *parser_method(const PARSER *p)
{
	return http_method_str((enum http_method)p->method);
}

static const char *parser_reason(const PARSER *p)
{
	return http_errno_description(HTTP_PARSER_ERRNO(p));
}
#endif

static int refuse(struct http_reader *h, int status, const char *reason)
{
	h->status = status;
	h->reason = reason;
	return -1;
}

static int on_begin(PARSER *p)
{
	struct http_reader *h = p->data;

	h->partial = true;
	return 0;
}

static int on_target(PARSER *p, const char *at, size_t len)
{
	struct http_reader *h = p->data;

	if (len > HTTP_TARGET_MAX - h->target_len)
		return refuse(h, 400, "The request target is too long.");
	memcpy(h->req.target + h->target_len, at, len);
	h->target_len += len;
	h->req.target[h->target_len] = '\0';
	return 0;
}

/* Keeps what fits of a piece of text; *len counts all of it. */
static void keep(char *buf, size_t size, size_t *len, const char *at, size_t n)
{
	if (*len < size)
		memcpy(buf + *len, at, MIN(n, size - *len));
	*len += n;
}

static bool is_named(const struct http_reader *h, const char *name)
{
	return h->name_len == strlen(name) && h->name_len <= sizeof(h->name) &&
	       strncasecmp(h->name, name, h->name_len) == 0;
}

/* Of several of the same name, the first. */
static int keep_value(struct http_reader *h)
{
	for (unsigned i = 0; h->wanted && h->wanted[i]; i++) {
		if (h->kept[i] || !is_named(h, h->wanted[i]))
			continue;
		h->kept[i] = strndup(h->value, MIN(h->value_len, sizeof(h->value)));
		if (!h->kept[i])
			return refuse(h, 500, "Out of memory.");
	}
	return 0;
}

static int end_header(struct http_reader *h)
{
	bool is_expect = is_named(h, "Expect");

	if (is_expect && (h->value_len < 12 || strncasecmp(h->value, "100-continue", 12) != 0))
		return refuse(h, 417, "Only 100-continue can be expected.");
	if (keep_value(h) < 0)
		return -1;
	h->wants_continue |= is_expect;
	h->in_value = false;
	h->name_len = h->value_len = 0;
	return 0;
}

static int on_header_name(PARSER *p, const char *at, size_t len)
{
	struct http_reader *h = p->data;

	if (h->in_value && end_header(h) < 0)
		return -1;
	if (h->name_len == 0 && ++h->headers > HTTP_HEADERS_MAX)
		return refuse(h, 400, "There are too many headers.");
	/* http-parser takes them, but then "Content-Length :" means one thing here and another elsewhere. */
	if (memchr(at, ' ', len))
		return refuse(h, 400, "A header's name has a blank in it.");
	keep(h->name, sizeof(h->name), &h->name_len, at, len);
	if (h->name_len > HTTP_HEADER_MAX)
		return refuse(h, 400, "A header is too long.");
	return 0;
}

static int on_header_value(PARSER *p, const char *at, size_t len)
{
	struct http_reader *h = p->data;

	h->in_value = true;
	keep(h->value, sizeof(h->value), &h->value_len, at, len);
	if (h->value_len > HTTP_HEADER_MAX - h->name_len)
		return refuse(h, 400, "A header is too long.");
	return 0;
}

static int on_headers_complete(PARSER *p)
{
	struct http_reader *h = p->data;

	if (h->in_value && end_header(h) < 0)
		return -1;
	if (p->http_major != 1 || p->http_minor > 1)
		return refuse(h, 400, "Only HTTP versions 1.0 and 1.1 are spoken here.");
	h->wants_continue = h->wants_continue && p->http_minor >= 1;
	/* A library that knows no length yet says all ones, or 0. */
	if (p->content_length != UINT64_MAX && p->content_length > h->max_body)
		return refuse(h, 413, NULL);
	/* A request to upgrade may be ignored, and its body is a body like any other. */
	p->upgrade = 0;
	return 0;
}

static int on_body(PARSER *p, const char *at, size_t len)
{
	struct http_reader *h = p->data;
	size_t need = h->req.body_len + len;

	if (len > h->max_body - h->req.body_len)
		return refuse(h, 413, NULL);
	if (need > h->body_cap) {
		size_t cap = MIN(need * 2, h->max_body);
		char *bigger = realloc(h->body, cap);

		if (!bigger)
			return refuse(h, 500, "Out of memory.");
		h->body = bigger;
		h->body_cap = cap;
	}
	memcpy(h->body + h->req.body_len, at, len);
	h->req.body_len = need;
	h->req.body = h->body;
	return 0;
}

static enum http_verb verb_of(const char *method)
{
	static const char *const name[] = {
		[HTTP_VERB_GET] = "GET",
		[HTTP_VERB_PUT] = "PUT",
		[HTTP_VERB_PATCH] = "PATCH",
		[HTTP_VERB_DELETE] = "DELETE",
	};

	for (unsigned i = HTTP_VERB_GET; i < ARRAY_SIZE(name); i++)
		if (strcmp(name[i], method) == 0)
			return (enum http_verb)i;
	return HTTP_VERB_OTHER;
}

static int on_complete(PARSER *p)
{
	struct http_reader *h = p->data;

	h->req.method = parser_method(p);
	h->req.verb = verb_of(h->req.method);
	h->req.keep_alive = parser_keep_alive(p);
	h->req.chunks = p->http_minor >= 1;
	h->complete = true;
	return parser_pause(p);
}

struct http_reader *http_create(size_t max_body)
{
	struct http_reader *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	h->max_body = max_body;
	h->settings = (SETTINGS){
		.on_message_begin = on_begin,
		.on_url = on_target,
		.on_header_field = on_header_name,
		.on_header_value = on_header_value,
		.on_headers_complete = on_headers_complete,
		.on_body = on_body,
		.on_message_complete = on_complete,
	};
	parser_init(h);
	h->parser.data = h;
	return h;
}

void http_keep(struct http_reader *h, const char *const *names)
{
	h->wanted = names;
}

const char *http_kept(const struct http_reader *h, unsigned i)
{
	return h->kept[i];
}

static void drop_kept(struct http_reader *h)
{
	for (unsigned i = 0; i < HTTP_KEEP_MAX; i++)
		free(TAKE(h->kept[i]));
}

void http_destroy(struct http_reader *h)
{
	if (!h)
		return;
	drop_kept(h);
	free(h->body);
	free(h);
}

enum http_event http_feed(struct http_reader *h, const char *buf, size_t len, size_t *used)
{
	*used = 0;
	/* To the library, no bytes mean the end of the stream. */
	if (len == 0)
		return HTTP_MORE;
	if (!parser_run(h, buf, len, used))
		return HTTP_BAD;
	return h->complete ? HTTP_READY : HTTP_MORE;
}

const struct http_request *http_get(const struct http_reader *h)
{
	return &h->req;
}

void http_next(struct http_reader *h)
{
	h->req = (struct http_request){0};
	/* One large body must not stay for the life of an idle connection. */
	free(TAKE(h->body));
	drop_kept(h);
	h->body_cap = 0;
	h->target_len = 0;
	h->headers = 0;
	h->in_value = false;
	h->name_len = h->value_len = 0;
	h->partial = h->complete = h->wants_continue = false;
	parser_resume(h);
}

bool http_partial(const struct http_reader *h)
{
	return h->partial && !h->complete;
}

bool http_wants_continue(struct http_reader *h)
{
	return TAKE_AS(h->wants_continue, false);
}

void http_error(const struct http_reader *h, struct http_response *r)
{
	char text[160];

	if (h->status == 413)
		snprintf(text, sizeof(text), "The body is larger than the limit of %zu bytes.",
			 h->max_body);
	else if (h->status)
		snprintf(text, sizeof(text), "%s", h->reason);
	else
		snprintf(text, sizeof(text), "Malformed HTTP request: %s.",
			 parser_reason(&h->parser));
	http_respond_fault(r, h->status ? h->status : 400, text);
}

void http_respond_fault(struct http_response *r, int status, const char *message)
{
	cleanup_free char *text = strdup(message);
	json_t *json;

	if (text)
		err_clean_text(text);
	json = json_pack("{s:s}", "fault_message", text ? text : "Out of memory.");
	free(r->body);
	r->status = status;
	r->body = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
}

static const char *status_text(int status)
{
	static const struct {
		int status;
		const char *text;
	} known[] = {
		{200, "OK"},
		{204, "No Content"},
		{400, "Bad Request"},
		{401, "Unauthorized"},
		{403, "Forbidden"},
		{404, "Not Found"},
		{405, "Method Not Allowed"},
		{408, "Request Timeout"},
		{413, "Content Too Large"},
		{417, "Expectation Failed"},
		{500, "Internal Server Error"},
		{501, "Not Implemented"},
		{503, "Service Unavailable"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (known[i].status == status)
			return known[i].text;
	return "Unknown";
}

/* The headers that tell what the body is and how long. */
static void print_entity(const struct http_response *r, char *buf, size_t size)
{
	const char *type = r->type ? r->type : "application/json";

	if (r->stream)
		snprintf(buf, size, "Content-Type: %s\r\n%s", type,
			 r->chunked ? "Transfer-Encoding: chunked\r\n" : "");
	else if (r->body)
		snprintf(buf, size, "Content-Type: %s\r\nContent-Length: %zu\r\n", type,
			 strlen(r->body));
	else
		snprintf(buf, size, "%s", r->status == 204 ? "" : "Content-Length: 0\r\n");
}

char *http_print(struct http_response *r, size_t *len)
{
	cleanup_free char *body = r->body;
	char entity[160];
	char *out;
	int n;

	print_entity(r, entity, sizeof(entity));
	r->body = NULL;
	n = asprintf(&out,
		     "HTTP/1.1 %d %s\r\nServer: Firecracker API\r\nConnection: %s\r\n%s%s%s\r\n%s",
		     r->status, status_text(r->status), r->keep_alive ? "keep-alive" : "close",
		     r->deprecated ? "Deprecation: true\r\n" : "", r->extra, entity,
		     body && !r->no_body ? body : "");
	*len = n < 0 ? 0 : (size_t)n;
	return n < 0 ? NULL : out;
}
