/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/lib/mmdspeer.h"
#include "vmm/config.h"

#define SECOND 1000000000ull
#define TTL    "X-metadata-token-ttl-seconds: "
#define TOKEN  "X-metadata-token: "
#define JSON   "Accept: application/json\r\n"

static struct mmds m;
static struct mmds_config config;
static uint64_t now;

/* The last answer. */
static int status;
static char body[60000], headers[512];

static void put(const char *text)
{
	json_t *v = json_loads(text, JSON_DECODE_ANY, NULL);

	cr_assert(v, "%s", text);
	cr_assert_eq(mmds_put(&m, v, NULL), 0);
	json_decref(v);
}

static void start(void)
{
	mmds_init(&m);
	mmds_config_init(&config);
	m.config = &config;
	now = 1000 * SECOND;
	put("{\"latest\":{\"meta-data\":{\"ami-id\":\"ami-1\",\"b\":{\"c\":\"d\"},\"n\":5,"
	    "\"list\":[\"x\",{\"y\":\"z\"}],\"a/b\":\"slash\",\"t~\":\"tilde\",\"null\":null},"
	    "\"user-data\":\"#!/bin/sh\\necho hi\\n\"}}");
}

static void finish(void)
{
	mmds_finish(&m);
	mmds_config_finish(&config);
}

TestSuite(mmds, .init = start, .fini = finish, .timeout = 60);

/* One request: "GET /path", and header lines with their ends. */
static int ask(const char *line, const char *lines)
{
	struct http_reader *h = http_create(100);
	struct http_response r;
	char text[4096], *out, *split;
	size_t used, len;

	http_keep(h, mmds_headers);
	len = (size_t)snprintf(text, sizeof(text), "%s HTTP/1.1\r\n%s\r\n", line, lines);
	cr_assert_eq(http_feed(h, text, len, &used), HTTP_READY, "%s", text);
	mmds_answer(&m, h, now, &r);
	status = r.status;
	out = http_print(&r, &len);
	cr_assert(out);
	split = strstr(out, "\r\n\r\n");
	cr_assert(split);
	snprintf(headers, sizeof(headers), "%.*s", (int)(split - out) + 2, out);
	snprintf(body, sizeof(body), "%s", split + 4);
	free(out);
	http_destroy(h);
	return status;
}

static void expect(const char *line, const char *lines, int want, const char *text)
{
	cr_expect_eq(ask(line, lines), want, "%s: %d %s", line, status, body);
	if (text)
		cr_expect_str_eq(body, text, "%s: %s", line, body);
}

static bool has_header(const char *text)
{
	return strstr(headers, text);
}

/* --- what is read --- */

Test(mmds, values_as_text)
{
	expect("GET /latest/meta-data/ami-id", "", 200, "ami-1");
	cr_expect(has_header("Content-Type: text/plain\r\n"));
	cr_expect(has_header("Connection: keep-alive\r\n"));
	expect("GET /latest/user-data", "", 200, "#!/bin/sh\necho hi\n");
	expect("GET /latest", "", 200, "meta-data/\nuser-data");
	expect("GET /", "", 200, "latest/");
	expect("GET /latest/meta-data", "", 200, "a/b\nami-id\nb/\nlist\nn\nnull\nt~");
	expect("GET /latest/meta-data/", "", 200, NULL);
	expect("GET //latest///meta-data/ami-id//", "", 200, "ami-1");
	expect("GET http://169.254.169.254/latest/meta-data/ami-id", "", 200, "ami-1");
	expect("GET http://169.254.169.254", "", 200, "latest/");
	expect("GET /latest/meta-data/n", "", 501, NULL);
	expect("GET /latest/meta-data/list", "", 501, NULL);
	expect("GET /latest/meta-data/null", "", 501, NULL);
	expect("GET /latest/meta-data/list/0", "", 200, "x");
	expect("GET /latest/meta-data/list/1", "", 200, "y");
	expect("GET /latest/meta-data/a~1b", "", 200, "slash");
	expect("GET /latest/meta-data/t~0", "", 200, "tilde");
}

Test(mmds, what_is_not_there)
{
	static const char *const none[] = {
		"GET /nope",
		"GET /latest/meta-data/ami-id/x",
		"GET /latest/meta-data/list/2",
		"GET /latest/meta-data/list/00",
		"GET /latest/meta-data/list/+1",
		"GET /latest/meta-data/list/-1",
		"GET /latest/meta-data/list/99999999999999999999",
		"GET /latest/meta-data/list/x",
		"GET /Latest",
		"GET /latest?x=1",
		"PUT /latest/api",
		"PUT /",
		"PUT /latest/meta-data/ami-id",
	};

	for (size_t i = 0; i < ARRAY_SIZE(none); i++)
		expect(none[i], TTL "60\r\n", 404, NULL);
	expect("GET /nope", "", 404, "Resource not found: /nope.");
	json_decref(m.store);
	m.store = NULL;
	expect("GET /", "", 404, NULL);
}

Test(mmds, json_when_it_is_accepted)
{
	expect("GET /latest/meta-data/b", JSON, 200, "{\"c\":\"d\"}");
	cr_expect(has_header("Content-Type: application/json\r\n"));
	expect("GET /latest/meta-data/n", JSON, 200, "5");
	expect("GET /latest/meta-data/null", JSON, 200, "null");
	expect("GET /latest/meta-data/ami-id", JSON, 200, "\"ami-1\"");
	expect("GET /latest/meta-data/list", JSON, 200, "[\"x\",{\"y\":\"z\"}]");
	expect("GET /latest/meta-data/b", "Accept: text/html, application/json\r\n", 200, "c");
	expect("GET /latest/meta-data/b", "Accept: image/png,APPLICATION/json;q=1\r\n", 200,
	       "{\"c\":\"d\"}");
	expect("GET /latest/meta-data/b", "Accept: */*\r\n", 200, "c");
	expect("GET /latest/meta-data/b", "Accept:\r\n", 200, "c");
	expect("GET /latest/meta-data/b", "Accept: ,, ,x\r\n", 200, "c");
	config.imds_compat = true;
	expect("GET /latest/meta-data/b", JSON, 200, "c");
	expect("GET /latest/meta-data/n", JSON, 501, NULL);
}

Test(mmds, methods)
{
	static const char *const not [] = {"POST", "PATCH", "DELETE", "HEAD", "OPTIONS"};
	char line[32];

	for (size_t i = 0; i < ARRAY_SIZE(not ); i++) {
		snprintf(line, sizeof(line), "%s /latest", not [i]);
		expect(line, "", 405, strcmp(not [i], "HEAD") == 0 ? "" : NULL);
		cr_expect(has_header("Allow: GET, PUT\r\n"));
	}
	expect("OPTIONS *", "", 405, NULL);
	expect("GET *", "", 400, "Invalid URI.");
}

/* --- tokens --- */

static void get_token(unsigned ttl_s, char line[128])
{
	char ttl[64];

	snprintf(ttl, sizeof(ttl), TTL "%u\r\n", ttl_s);
	cr_assert_eq(ask("PUT /latest/api/token", ttl), 200, "%s", body);
	cr_assert_eq(strlen(body), 64);
	cr_assert(has_header(ttl));
	cr_assert(has_header("Content-Type: text/plain\r\n"));
	snprintf(line, 128, TOKEN "%.64s\r\n", body);
}

Test(mmds, version_2_needs_a_token)
{
	char token[128], wrong[256];

	config.v2 = true;
	expect("GET /latest", "", 401, NULL);
	cr_expect_eq(m.count.rx_no_token.value, 1);
	expect("GET /latest", TOKEN "x\r\n", 401, NULL);
	cr_expect_eq(m.count.rx_invalid_token.value, 1);
	get_token(60, token);
	expect("GET /latest", token, 200, "meta-data/\nuser-data");
	/* Each digit counts. */
	for (size_t i = 0; i < 64; i++) {
		strcpy(wrong, token);
		wrong[strlen(TOKEN) + i] ^= 1;
		cr_expect_eq(ask("GET /latest", wrong), 401);
	}
	snprintf(wrong, sizeof(wrong), TOKEN "%.63s\r\n", token + strlen(TOKEN));
	expect("GET /latest", wrong, 401, NULL);
	snprintf(wrong, sizeof(wrong), TOKEN "%.64sa\r\n", token + strlen(TOKEN));
	expect("GET /latest", wrong, 401, NULL);
	snprintf(wrong, sizeof(wrong), "X-aws-ec2-metadata-token: %s", token + strlen(TOKEN));
	expect("GET /latest", wrong, 200, NULL);
	cr_expect_eq(m.count.rx_no_token.value, 1);
	cr_expect_eq(m.count.rx_invalid_token.value, 67);
}

Test(mmds, tokens_expire)
{
	char first[128], second[128];

	config.v2 = true;
	get_token(1, first);
	get_token(21600, second);
	now += SECOND - 1;
	expect("GET /latest", first, 200, NULL);
	now += 1;
	expect("GET /latest", first, 401, NULL);
	expect("GET /latest", second, 200, NULL);
	now += 21599 * SECOND - 1;
	expect("GET /latest", second, 200, NULL);
	now += 1;
	expect("GET /latest", second, 401, NULL);
}

Test(mmds, tokens_of_another_instance_are_foreign)
{
	struct mmds_tokens ours = m.tokens;
	char token[128];

	config.v2 = true;
	get_token(60, token);
	ours = m.tokens;
	m.tokens = (struct mmds_tokens){0};
	expect("GET /latest", token, 401, NULL);
	get_token(60, (char[128]){0});
	expect("GET /latest", token, 401, NULL);
	mmds_tokens_finish(&m.tokens);
	m.tokens = ours;
	expect("GET /latest", token, 200, NULL);
}

Test(mmds, a_token_in_use_outlives_any_number_of_others)
{
	char used[128], unused[128];

	config.v2 = true;
	get_token(60, unused);
	now++;
	get_token(60, used);
	for (unsigned i = 0; i < 3 * MMDS_TOKENS; i++) {
		now++;
		get_token(21600, (char[128]){0});
		if (i % 100 == 0) {
			now++;
			cr_assert_eq(ask("GET /latest", used), 200, "after %u", i);
		}
	}
	expect("GET /latest", unused, 401, NULL);
}

Test(mmds, version_1_counts_tokens_only)
{
	char token[128];

	expect("GET /latest", "", 200, NULL);
	cr_expect_eq(m.count.rx_no_token.value, 1);
	expect("GET /latest", TOKEN "x\r\n", 200, NULL);
	cr_expect_eq(m.count.rx_invalid_token.value, 1);
	get_token(60, token);
	expect("GET /latest", token, 200, NULL);
	cr_expect_eq(m.count.rx_no_token.value, 1);
	cr_expect_eq(m.count.rx_invalid_token.value, 1);
}

Test(mmds, requests_for_tokens_that_are_refused)
{
	static const char *const ttl[] = {
		"0", "21601", "-1", "", "x", "1x", "1 2", "4294967297", "99999999999999999999"};
	char lines[128];

	for (size_t i = 0; i < ARRAY_SIZE(ttl); i++) {
		snprintf(lines, sizeof(lines), TTL "%s\r\n", ttl[i]);
		expect("PUT /latest/api/token", lines, 400, NULL);
	}
	expect("PUT /latest/api/token", "", 400, NULL);
	expect("PUT /latest/api/token", TTL "60\r\nX-Forwarded-For: 1.2.3.4\r\n", 400, NULL);
	cr_expect(strstr(body, "X-Forwarded-For"));
	expect("PUT /latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n", 200, NULL);
	cr_expect(has_header("X-aws-ec2-metadata-token-ttl-seconds: 60\r\n"));
	expect("PUT //latest/api/token/", TTL "60\r\n", 200, NULL);
}

/* --- what the host writes --- */

static int patch(const char *text)
{
	json_t *v = json_loads(text, JSON_DECODE_ANY, NULL);
	int r;

	cr_assert(v, "%s", text);
	r = mmds_patch(&m, v, NULL);
	json_decref(v);
	return r;
}

/* RFC 7396, appendix A. */
Test(mmds, patches_merge)
{
	static const char *const cases[][3] = {
		{"{\"a\":\"b\"}", "{\"a\":\"c\"}", "{\"a\":\"c\"}"},
		{"{\"a\":\"b\"}", "{\"b\":\"c\"}", "{\"a\":\"b\",\"b\":\"c\"}"},
		{"{\"a\":\"b\"}", "{\"a\":null}", "{}"},
		{"{\"a\":\"b\",\"b\":\"c\"}", "{\"a\":null}", "{\"b\":\"c\"}"},
		{"{\"a\":[\"b\"]}", "{\"a\":\"c\"}", "{\"a\":\"c\"}"},
		{"{\"a\":\"c\"}", "{\"a\":[\"b\"]}", "{\"a\":[\"b\"]}"},
		{"{\"a\":{\"b\":\"c\"}}", "{\"a\":{\"b\":\"d\",\"c\":null}}",
		 "{\"a\":{\"b\":\"d\"}}"},
		{"{\"a\":[{\"b\":\"c\"}]}", "{\"a\":[1]}", "{\"a\":[1]}"},
		{"[\"a\",\"b\"]", "[\"c\",\"d\"]", "[\"c\",\"d\"]"},
		{"{\"a\":\"b\"}", "[\"c\"]", "[\"c\"]"},
		{"{\"a\":\"foo\"}", "null", "null"},
		{"{\"a\":\"foo\"}", "\"bar\"", "\"bar\""},
		{"{\"e\":null}", "{\"a\":1}", "{\"a\":1,\"e\":null}"},
		{"[1,2]", "{\"a\":\"b\",\"c\":null}", "{\"a\":\"b\"}"},
		{"{}", "{\"a\":{\"bb\":{\"ccc\":null}}}", "{\"a\":{\"bb\":{}}}"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		json_t *got;
		char *text;

		put(cases[i][0]);
		cr_assert_eq(patch(cases[i][1]), 0);
		got = mmds_get(&m);
		text = json_dumps(got, JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS);
		cr_expect_str_eq(text, cases[i][2], "case %zu: %s", i, text);
		free(text);
		json_decref(got);
	}
}

Test(mmds, the_limit_leaves_what_was)
{
	json_t *old = mmds_get(&m), *big = json_pack("{s:s}", "a", "0123456789");
	json_t *same;
	struct err e = {0};

	m.limit = 17;
	cr_expect_eq(mmds_put(&m, big, &e), -EFBIG);
	cr_expect_str_eq(e.msg, "The MMDS patch request doesn't fit.");
	cr_expect_eq(patch("{\"b\":1}"), -EFBIG);
	same = mmds_get(&m);
	cr_expect(json_equal(old, same));
	m.limit = 18;
	cr_expect_eq(mmds_put(&m, big, &e), 0);
	cr_expect_eq(patch("{\"b\":1}"), -EFBIG);
	cr_expect_eq(patch("{\"a\":null}"), 0);
	json_decref(old);
	json_decref(same);
	json_decref(big);
}

Test(mmds, nothing_can_be_patched_before_a_put)
{
	struct err e = {0};
	json_t *v = json_object();

	mmds_finish(&m);
	cr_expect_eq(mmds_patch(&m, v, &e), -ENODATA);
	cr_expect_str_eq(e.msg, "The MMDS data store is not initialized.");
	json_decref(v);
	v = mmds_get(&m);
	cr_expect(json_is_object(v) && json_object_size(v) == 0);
	json_decref(v);
}

/* --- configuration --- */

static struct mmds_config piece_for(const char *id, const char *address)
{
	struct mmds_config piece;

	mmds_config_init(&piece);
	piece.interfaces.item = calloc(1, NETCONFIG_ID_MAX + 1);
	piece.interfaces.count = 1;
	strcpy(piece.interfaces.item, id);
	if (address)
		strcpy(piece.ipv4_address, address);
	return piece;
}

static int set(struct config *c, const char *id, const char *address, struct err *e)
{
	struct mmds_config piece = piece_for(id, address);
	int r = config_set_mmds(c, &piece, e);

	mmds_config_finish(&piece);
	return r;
}

Test(mmds, configuration)
{
	static const char *const bad[] = {"10.0.0.1",	   "169.254.0.1", "169.254.255.1",
					  "169.253.1.1",   "169.254.1",	  "169.254.1.256",
					  "169.254.1.1 ",  "x",		  "",
					  "169.254.1.1.1", "0169.254.1.1"};
	static const char *const good[] = {"169.254.1.0", "169.254.254.255", "169.254.169.254"};
	struct mmds_config none;
	struct config c;
	struct err e;

	config_init(&c);
	strcpy(c.net[0].id, "eth0");
	c.net_count = 1;
	cr_expect_eq(set(&c, "eth1", NULL, &e), -EINVAL);
	cr_expect(strstr(e.msg, "'eth1'"));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		cr_expect_eq(set(&c, "eth0", bad[i], &e), -EINVAL, "%s", bad[i]);
	cr_expect(strstr(e.msg, "ipv4_address"));
	mmds_config_init(&none);
	cr_expect_eq(config_set_mmds(&c, &none, &e), -EINVAL);
	cr_expect(strstr(e.msg, "network_interfaces"));
	cr_expect_not(mmds_configured(&c.mmds));
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		cr_expect_eq(set(&c, "eth0", good[i], &e), 0, "%s", good[i]);
	cr_expect(mmds_config_has(&c.mmds, "eth0"));
	cr_expect_not(mmds_config_has(&c.mmds, "eth1"));
	net_interface_init(&c.net[0]);
	config_finish(&c);
}

/* --- all of it, from frames to the document --- */

Test(mmds, over_the_network)
{
	struct loop loop;
	struct mmdsnet *net;
	struct mmdspeer *p = calloc(1, sizeof(*p));

	cr_assert_eq(loop_init(&loop, NULL), 0);
	net = mmds_open(&m, &config, &loop, NULL);
	cr_assert(peer_connect(p, mmdsnet_add(net, 0, NULL), "10.0.0.2", 1000));
	peer_send(p, PEER_ACK, NULL, 0);
	peer_say(p, "GET /latest/meta-data/ami-id HTTP/1.1\r\n\r\nGET /latest/meta-data/b/c HT");
	peer_say(p, "TP/1.1\r\nConnection: close\r\n\r\n");
	peer_pull(p);
	cr_expect(strstr(p->got, "\r\n\r\nami-1HTTP/1.1 200 OK\r\n"), "%s", p->got);
	cr_expect_str_eq(p->got + p->len - 5, "\r\n\r\nd");
	cr_expect(p->fin);
	cr_assert(peer_connect(p, p->port, "10.0.0.2", 1001));
	peer_send(p, PEER_ACK, NULL, 0);
	peer_say(p, "nonsense\r\n\r\n");
	peer_pull(p);
	cr_expect_eq(strncmp(p->got, "HTTP/1.1 400 ", 13), 0);
	cr_expect(p->fin);
	mmdsnet_destroy(net);
	loop_finish(&loop);
	free(p);
}
