/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/http.h"

#include <curl/curl.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* An answer that is longer than any of spore's is not kept. */
#define ANSWER_MAX MIB(64)

/*
 * libcurl brings two dozen libraries, and their loading takes longer than all the rest of sporectl: it
 * is loaded by those who make a request. exec and cp, which talk to the agent, make none.
 */
#define CURL_FUNCTIONS(X)      \
	X(easy_init)           \
	X(easy_setopt)         \
	X(easy_getinfo)        \
	X(easy_strerror)       \
	X(easy_cleanup)        \
	X(slist_append)        \
	X(slist_free_all)      \
	X(multi_init)          \
	X(multi_add_handle)    \
	X(multi_perform)       \
	X(multi_poll)          \
	X(multi_info_read)     \
	X(multi_remove_handle) \
	X(multi_cleanup)

static struct {
#define MEMBER(name) __typeof__(curl_##name) *name;
	CURL_FUNCTIONS(MEMBER)
} curl;

static int no_curl(struct ctl *c, struct err *e)
{
	const char *why = dlerror();

	ctl_hint(c, "sudo apt-get install libcurl4");
	return err_set(e, ENOENT, "libcurl: %s", why ? why : "a function is missing");
}

int http_load(struct ctl *c, struct err *e)
{
	void *lib;

	if (curl.multi_cleanup)
		return 0;
	lib = dlopen("libcurl.so.4", RTLD_NOW);
	if (!lib)
		return no_curl(c, e);
#define LOAD(name)                                                \
	*(void **)(void *)&curl.name = dlsym(lib, "curl_" #name); \
	if (!curl.name)                                           \
		return no_curl(c, e);
	CURL_FUNCTIONS(LOAD)
	return 0;
}

struct transfer {
	const struct http_call *call;
	char *text; /* of the body, or of a line that has not ended */
	size_t len;
	bool ended; /* line() wants no more */
	CURL *curl;
};

static bool is_ok(struct transfer *t)
{
	long status = 0;

	curl.easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
	return status / 100 == 2;
}

/* Tells the whole lines that are there; what is left is the beginning of the next one. */
static void tell_lines(struct transfer *t)
{
	char *line = t->text, *end;

	while (!t->ended && (end = memchr(line, '\n', t->len - (size_t)(line - t->text)))) {
		*end = '\0';
		t->ended = t->call->line(t->call->arg, line) != 0;
		line = end + 1;
	}
	t->len -= (size_t)(line - t->text);
	memmove(t->text, line, t->len);
}

static size_t on_data(char *data, size_t one, size_t len, void *arg)
{
	struct transfer *t = arg;
	char *bigger;

	(void)one;
	if (t->len + len > ANSWER_MAX)
		return 0;
	bigger = realloc(t->text, t->len + len + 1);
	if (!bigger)
		return 0;
	t->text = bigger;
	memcpy(t->text + t->len, data, len);
	t->len += len;
	t->text[t->len] = '\0';
	if (t->call->line && is_ok(t))
		tell_lines(t);
	return t->ended ? 0 : len;
}

static struct curl_slist *prepare(struct transfer *t, const char *url, const char *body)
{
	const struct http_call *call = t->call;
	struct curl_slist *headers = curl.slist_append(NULL, "Content-Type: application/json");
	long limit = call->seconds ? call->seconds : HTTP_QUICK;

	curl.easy_setopt(t->curl, CURLOPT_UNIX_SOCKET_PATH, call->socket);
	curl.easy_setopt(t->curl, CURLOPT_URL, url);
	curl.easy_setopt(t->curl, CURLOPT_CUSTOMREQUEST, call->method);
	curl.easy_setopt(t->curl, CURLOPT_NOSIGNAL, 1L);
	curl.easy_setopt(t->curl, CURLOPT_PROXY, "");
	curl.easy_setopt(t->curl, CURLOPT_WRITEFUNCTION, on_data);
	curl.easy_setopt(t->curl, CURLOPT_WRITEDATA, t);
	if (!call->line)
		curl.easy_setopt(t->curl, CURLOPT_TIMEOUT, limit);
	if (body) {
		curl.easy_setopt(t->curl, CURLOPT_HTTPHEADER, headers);
		curl.easy_setopt(t->curl, CURLOPT_POSTFIELDS, body);
	}
	return headers;
}

/* What curl's result means for the person. */
static int unreachable(struct ctl *c, const struct transfer *t, CURLcode code, struct err *e)
{
	const char *socket = t->call->socket;
	long os_error = 0;

	curl.easy_getinfo(t->curl, CURLINFO_OS_ERRNO, &os_error);
	ctl_hint(c, "sporectl ps");
	if (code == CURLE_COULDNT_CONNECT && access(socket, F_OK) < 0)
		return err_set(e, ENOENT, "socket '%s' is gone: has the microVM ended?", socket);
	if (code == CURLE_COULDNT_CONNECT && os_error == EACCES)
		return err_set(e, EACCES, "socket '%s': you may not use it", socket);
	if (code == CURLE_COULDNT_CONNECT)
		return err_set(e, ECONNREFUSED, "socket '%s': nobody listens there", socket);
	if (code == CURLE_OPERATION_TIMEDOUT)
		return err_set(e, ETIMEDOUT, "socket '%s': no answer to %s %s in time", socket,
			       t->call->method, t->call->path);
	return err_set(e, ECONNRESET, "socket '%s': %s %s: %s", socket, t->call->method,
		       t->call->path, curl.easy_strerror(code));
}

static int judge(struct transfer *t, struct http_answer *answer, struct err *e)
{
	long status = 0;
	json_t *body = t->text ? json_loads(t->text, JSON_DECODE_ANY, NULL) : NULL;
	const char *fault = json_string_value(json_object_get(body, "fault_message"));

	curl.easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
	if (status / 100 != 2) {
		err_set(e, EBADMSG, "%s", fault ? fault : "the answer is not one of spore's");
		json_decref(body);
		return -EBADMSG;
	}
	if (answer) {
		*answer = (struct http_answer){.status = (int)status, .body = json_incref(body)};
		answer->text = body ? NULL : TAKE(t->text);
	}
	json_decref(body);
	return 0;
}

/* By the multi interface: the easy one looks up once a second only. */
static CURLcode perform(struct transfer *t)
{
	CURLM *multi = curl.multi_init();
	CURLcode code = CURLE_FAILED_INIT;
	int running = 1, left;
	CURLMsg *m;

	if (!multi)
		return code;
	curl.multi_add_handle(multi, t->curl);
	while (running) {
		if (curl.multi_perform(multi, &running) != CURLM_OK)
			break;
		if (running)
			curl.multi_poll(multi, NULL, 0, 100, NULL);
		if (running && t->call->tick && t->call->tick(t->call->arg))
			break;
	}
	while ((m = curl.multi_info_read(multi, &left)))
		if (m->msg == CURLMSG_DONE)
			code = m->data.result;
	curl.multi_remove_handle(multi, t->curl);
	curl.multi_cleanup(multi);
	return code;
}

int http_call(struct ctl *c, const struct http_call *call, struct http_answer *answer,
	      struct err *e)
{
	struct transfer t = {.call = call};
	cleanup_free char *body = call->body ? json_dumps(call->body, JSON_COMPACT) : NULL;
	struct curl_slist *headers;
	CURLcode code;
	char url[512];
	int r;

	if (answer)
		*answer = (struct http_answer){0};
	if (http_load(c, e) < 0)
		return -e->code;
	t.curl = curl.easy_init();
	if (!t.curl || (call->body && !body))
		return err_set(e, ENOMEM, "out of memory");
	snprintf(url, sizeof(url), "http://localhost%s", call->path);
	headers = prepare(&t, url, body);
	code = perform(&t);
	if (code == CURLE_OK || (code == CURLE_WRITE_ERROR && t.ended))
		r = judge(&t, answer, e);
	else
		r = unreachable(c, &t, code, e);
	curl.slist_free_all(headers);
	curl.easy_cleanup(t.curl);
	free(t.text);
	return r;
}

void http_answer_finish(struct http_answer *answer)
{
	json_decref(answer->body);
	free(answer->text);
	*answer = (struct http_answer){0};
}

int http_ask(struct ctl *c, const char *socket, const char *path, json_t **body, struct err *e)
{
	const struct http_call call = {.socket = socket, .method = "GET", .path = path};
	struct http_answer answer;
	int r = http_call(c, &call, &answer, e);

	*body = NULL;
	if (r == 0 && !answer.body)
		r = err_set(e, EBADMSG, "socket '%s': the answer is not JSON", socket);
	if (r == 0)
		*body = json_incref(answer.body);
	http_answer_finish(&answer);
	return r;
}

int http_send(struct ctl *c, const char *socket, const char *method, const char *path, json_t *body,
	      struct err *e)
{
	const struct http_call call = {
		.socket = socket, .method = method, .path = path, .body = body};
	int r = http_call(c, &call, NULL, e);

	json_decref(body);
	return r;
}
