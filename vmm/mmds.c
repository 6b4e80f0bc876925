/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/mmds.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define TOKEN_PATH "/latest/api/token"
#define TEXT	   "text/plain"
#define JSON	   "application/json"

enum header { TOKEN, TOKEN_AWS, TTL, TTL_AWS, FORWARDED, ACCEPT };

const char *const mmds_headers[] = {
	[TOKEN] = "X-metadata-token",
	[TOKEN_AWS] = "X-aws-ec2-metadata-token",
	[TTL] = "X-metadata-token-ttl-seconds",
	[TTL_AWS] = "X-aws-ec2-metadata-token-ttl-seconds",
	[FORWARDED] = "X-Forwarded-For",
	[ACCEPT] = "Accept",
	NULL,
};

/* --- the document --- */

void mmds_init(struct mmds *m)
{
	*m = (struct mmds){.limit = MMDS_LIMIT_DEFAULT};
}

void mmds_finish(struct mmds *m)
{
	json_decref(m->store);
	m->store = NULL;
	mmds_tokens_finish(&m->tokens);
	m->config = NULL;
}

/* Takes `value`, which is new; NULL: out of memory. */
static int replace(struct mmds *m, json_t *value, struct err *e)
{
	size_t len = value ? json_dumpb(value, NULL, 0, JSON_COMPACT | JSON_ENCODE_ANY) : 0;

	if (len == 0)
		return err_set(e, ENOMEM, "Out of memory.");
	if (len > m->limit) {
		json_decref(value);
		return err_set(e, EFBIG, "The MMDS patch request doesn't fit.");
	}
	json_decref(m->store);
	m->store = value;
	return 0;
}

int mmds_put(struct mmds *m, json_t *value, struct err *e)
{
	return replace(m, json_incref(value), e);
}

/* RFC 7396; takes `target`, which may be NULL. NULL: out of memory. */
static json_t *merge(json_t *target, const json_t *patch)
{
	const char *key;
	json_t *value;

	if (!json_is_object(patch) || !json_is_object(target)) {
		json_decref(target);
		target = json_is_object(patch) ? json_object() : json_deep_copy(patch);
	}
	/* A const cast: the macro only reads. */
	json_object_foreach((json_t *)patch, key, value)
	{
		if (json_is_null(value))
			json_object_del(target, key);
		else if (json_object_set_new(
				 target, key,
				 merge(json_incref(json_object_get(target, key)), value)) < 0) {
			json_decref(target);
			return NULL;
		}
	}
	return target;
}

int mmds_patch(struct mmds *m, const json_t *patch, struct err *e)
{
	if (!m->store)
		return err_set(e, ENODATA, "The MMDS data store is not initialized.");
	return replace(m, merge(json_deep_copy(m->store), patch), e);
}

json_t *mmds_get(const struct mmds *m)
{
	return m->store ? json_incref(m->store) : json_object();
}

/* --- paths --- */

/*
 * The path of a request target without scheme and authority, with each run of slashes as one and
 * none at the end: "" is the document itself. False: there is none.
 */
static bool path_of(const char *target, char path[HTTP_TARGET_MAX + 1])
{
	size_t n = 0;

	if (strncasecmp(target, "http://", 7) == 0) {
		target += 7 + strcspn(target + 7, "/");
		if (!*target)
			target = "/";
	}
	if (*target != '/')
		return false;
	for (; *target; target++)
		if (*target != '/' || target[1] != '/')
			path[n++] = *target;
	if (path[n - 1] == '/')
		n--;
	path[n] = '\0';
	return true;
}

/* One reference token, unescaped in place (RFC 6901 section 4). */
static void unescape(char *s)
{
	char *to = s;

	for (; *s; s++) {
		bool escaped = s[0] == '~' && (s[1] == '0' || s[1] == '1');

		*to++ = !escaped ? *s : s[1] == '0' ? '~' : '/';
		s += escaped;
	}
	*to = '\0';
}

static const json_t *item_of(const json_t *list, const char *index)
{
	size_t len = strlen(index);

	if (len == 0 || len > 9 || strspn(index, "0123456789") != len ||
	    (index[0] == '0' && len > 1))
		return NULL;
	return json_array_get(list, strtoul(index, NULL, 10));
}

/* What a path points to (RFC 6901), or NULL. `path` is used up. */
static const json_t *find(const json_t *at, char *path)
{
	char *rest = NULL;

	for (char *key = strtok_r(path, "/", &rest); key && at; key = strtok_r(NULL, "/", &rest)) {
		unescape(key);
		at = json_is_array(at) ? item_of(at, key) : json_object_get(at, key);
	}
	return at;
}

/* --- answers --- */

static void answer(struct http_response *r, int status, const char *type, char *body)
{
	r->status = body ? status : 500;
	r->type = type;
	r->body = body;
}

static void refuse(struct http_response *r, int status, const char *text)
{
	answer(r, status, TEXT, strdup(text));
}

static int compare_keys(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The keys of an object, one a line, with a slash behind those that can be listed themselves. */
static char *list_keys(const json_t *object)
{
	size_t n = json_object_size(object), size = 1, i = 0;
	cleanup_free const char **keys = calloc(n + 1, sizeof(*keys));
	json_t *value;
	const char *key;
	char *text, *at;

	if (!keys)
		return NULL;
	json_object_foreach((json_t *)object, key, value)
	{
		keys[i++] = key;
		size += strlen(key) + 2;
	}
	qsort(keys, n, sizeof(*keys), compare_keys);
	text = at = malloc(size);
	if (!text)
		return NULL;
	*at = '\0';
	for (i = 0; i < n; i++)
		at += sprintf(at, "%s%s%s", i ? "\n" : "", keys[i],
			      json_is_object(json_object_get(object, keys[i])) ? "/" : "");
	return text;
}

static void answer_imds(struct http_response *r, const json_t *value)
{
	if (json_is_object(value))
		answer(r, 200, TEXT, list_keys(value));
	else if (json_is_string(value))
		answer(r, 200, TEXT, strdup(json_string_value(value)));
	else
		refuse(r, 501,
		       "Only objects and strings can be shown as text; accept "
		       "application/json.");
}

/* The first type that we have decides; without one it is text. */
static bool wants_json(const struct mmds *m, const char *accept)
{
	while (accept && !m->config->imds_compat) {
		accept += strspn(accept, " \t,");
		if (strncasecmp(accept, JSON, strlen(JSON)) == 0)
			return true;
		if (!*accept || strncasecmp(accept, "text/", 5) == 0 ||
		    strncmp(accept, "*/*", 3) == 0)
			return false;
		accept += strcspn(accept, ",");
	}
	return false;
}

/* Whether the request may read. In version 1 what is wrong with its token is only counted. */
static bool authorized(struct mmds *m, const struct http_reader *h, uint64_t now_ns,
		       struct http_response *r)
{
	const char *token = http_kept(h, TOKEN) ? http_kept(h, TOKEN) : http_kept(h, TOKEN_AWS);

	if (token && mmds_token_valid(&m->tokens, token, now_ns))
		return true;
	metric_inc(token ? &m->count.rx_invalid_token : &m->count.rx_no_token);
	if (!m->config->v2)
		return true;
	refuse(r, 401,
	       token ? "MMDS token not valid."
		     : "No MMDS token provided: the header X-metadata-token or "
		       "X-aws-ec2-metadata-token is needed.");
	return false;
}

static void answer_get(struct mmds *m, const struct http_reader *h, char *path, uint64_t now_ns,
		       struct http_response *r)
{
	cleanup_free char *shown = strdup(path);
	const json_t *value;
	char text[128];

	if (!authorized(m, h, now_ns, r))
		return;
	value = m->store ? find(m->store, path) : NULL;
	if (!value) {
		snprintf(text, sizeof(text), "Resource not found: %.96s.", shown ? shown : "");
		refuse(r, 404, text);
	} else if (wants_json(m, http_kept(h, ACCEPT))) {
		answer(r, 200, JSON,
		       json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS));
	} else {
		answer_imds(r, value);
	}
}

static bool parse_ttl(const char *text, unsigned *ttl_s)
{
	size_t len = strlen(text);

	if (len == 0 || len > 9 || strspn(text, "0123456789") != len)
		return false;
	*ttl_s = (unsigned)strtoul(text, NULL, 10);
	return *ttl_s >= 1 && *ttl_s <= MMDS_TTL_MAX_S;
}

static void answer_put(struct mmds *m, const struct http_reader *h, const char *path,
		       uint64_t now_ns, struct http_response *r)
{
	enum header named = http_kept(h, TTL) ? TTL : TTL_AWS;
	const char *ttl = http_kept(h, named);
	char token[MMDS_TOKEN_TEXT];
	unsigned ttl_s;

	if (http_kept(h, FORWARDED)) {
		refuse(r, 400, "X-Forwarded-For: a token is not given through a proxy.");
	} else if (strcmp(path, TOKEN_PATH) != 0) {
		refuse(r, 404, "Only " TOKEN_PATH " can be put.");
	} else if (!ttl) {
		refuse(r, 400,
		       "The header X-metadata-token-ttl-seconds or "
		       "X-aws-ec2-metadata-token-ttl-seconds is needed.");
	} else if (!parse_ttl(ttl, &ttl_s)) {
		refuse(r, 400, "Invalid time to live of a token: expected 1 to 21600 seconds.");
	} else if (mmds_token_make(&m->tokens, now_ns, now_ns + ttl_s * 1000000000ull, token) < 0) {
		refuse(r, 500, "There is no randomness or no memory for a token.");
	} else {
		snprintf(r->extra, sizeof(r->extra), "%s: %u\r\n", mmds_headers[named], ttl_s);
		answer(r, 200, TEXT, strdup(token));
	}
}

void mmds_answer(struct mmds *m, const struct http_reader *h, uint64_t now_ns,
		 struct http_response *r)
{
	const struct http_request *req = http_get(h);
	char path[HTTP_TARGET_MAX + 1];

	*r = (struct http_response){.keep_alive = req->keep_alive};
	if (req->verb != HTTP_VERB_GET && req->verb != HTTP_VERB_PUT) {
		strcpy(r->extra, "Allow: GET, PUT\r\n");
		r->no_body = strcmp(req->method, "HEAD") == 0;
		refuse(r, 405, "Not allowed HTTP method.");
	} else if (!path_of(req->target, path)) {
		refuse(r, 400, "Invalid URI.");
	} else if (req->verb == HTTP_VERB_PUT) {
		answer_put(m, h, path, now_ns, r);
	} else {
		answer_get(m, h, path, now_ns, r);
	}
}
