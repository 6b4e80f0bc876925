/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Anything on the API socket, and anything as a config file.
 *
 * The first byte chooses: bit 0 the config file instead of HTTP, bits 1 and 2 the phase that the
 * microVM claims to be in, the others how the stream is cut into pieces. No file is ever opened:
 * the limit of open descriptors is 0 meanwhile, so every open() fails before it can create
 * anything, and neither can /dev/kvm be reached. (A crash is therefore not saved to a file when it
 * happens inside; libFuzzer prints small ones.)
 */
#include <assert.h>
#include <string.h>
#include <sys/resource.h>

#include "api-sock/configfile.h"
#include "api-sock/route.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

#define MAX_BODY 2048

/* What a client says, for the mutator to start from and to splice in. */
static const char *const phrases[] = {
	"GET / HTTP/1.1\r\n\r\n",
	"GET /vm/config HTTP/1.1\r\nConnection: close\r\n\r\n",
	"PUT /machine-config HTTP/1.1\r\nContent-Length: 35\r\n\r\n"
	"{\"vcpu_count\":2,\"mem_size_mib\": 128}",
	"PATCH /machine-config HTTP/1.1\r\nContent-Length: 12\r\n\r\n{\"smt\":true}",
	"PUT /drives/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4d\r\n"
	"{\"drive_id\":\"a\",\"path_on_host\":\"/x\",\"is_root_device\":true,"
	"\"io_engine\":\"Sync\"}\r\n0\r\n\r\n",
	"PUT /actions HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 31\r\n\r\n"
	"{\"action_type\":\"InstanceStart\"}",
	"PATCH /vm HTTP/1.1\r\nContent-Length: 18\r\n\r\n{\"state\":\"Paused\"}",
	"PUT /logger HTTP/1.1\r\nContent-Length: 16\r\n\r\n{\"level\":\"info\"}",
	"PUT /cpu-config HTTP/1.1\r\nContent-Length: 136\r\n\r\n"
	"{\"cpuid_modifiers\":[{\"leaf\":\"0x1\",\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":"
	"[{\"register\":\"eax\",\"bitmap\":\"0b1x0\"}]}],\"kvm_capabilities\":[\"1\"]}",
	"{\"msr_modifiers\":[{\"addr\":\"0x10a\",\"bitmap\":\"0b1_0x\"}]}",
	"GET /metrics HTTP/1.1\r\n\r\n",
	"GET /events HTTP/1.0\r\n\r\n",
	"{\"cpu-config\":{\"kvm_capabilities\":[\"!5\"]}}",
	"{\"metrics\":{\"metrics_path\":\"/m\",\"properties\":{\"a\":\"b\"}}}",
	"{\"boot-source\":{\"kernel_image_path\":\"/k\",\"boot_args\":\"a\"},\"drives\":[]}",
	"{\"machine-config\":{\"vcpu_count\":4,\"mem_size_mib\":99,\"huge_pages\":\"2M\"}}",
	"{\"entropy\":{},\"serial\":null,\"metrics\":{\"metrics_path\":\"/m\"},\"vsock\":null}",
	"\"rate_limiter\":null",
	"\\u0000",
	"18446744073709551616",
};

static struct rlimit saved;

static void forbid_open(void)
{
	struct rlimit none;
	int r = getrlimit(RLIMIT_NOFILE, &saved);

	assert(r == 0);
	none = saved;
	none.rlim_cur = 0;
	r = setrlimit(RLIMIT_NOFILE, &none);
	assert(r == 0);
}

static void allow_open(void)
{
	int r = setrlimit(RLIMIT_NOFILE, &saved);

	assert(r == 0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	json_object_seed(1);
	return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
	const char *phrase = phrases[seed % ARRAY_SIZE(phrases)];
	size_t len = strlen(phrase), at = size ? 1 + (seed >> 8) % size : 1;

	/* One time in four a phrase goes in whole; byte soup seldom finds the grammar. */
	if ((seed >> 4) % 4 || size + len + 1 > max_size)
		return LLVMFuzzerMutate(data, size, max_size);
	if (size == 0)
		data[size++] = (uint8_t)(seed >> 16);
	if (at > size)
		at = size;
	memmove(data + at + len, data + at, size - at);
	memcpy(data + at, phrase, len);
	return size + len;
}

/* What must be true of every answer. */
static void check_response(struct http_response *resp)
{
	json_t *json;
	size_t len;
	char *text;

	assert(resp->status == 200 || resp->status == 204 || resp->status == 400 ||
	       resp->status == 413 || resp->status == 417);
	assert((resp->status == 204) == (!resp->body && !resp->stream));
	if (resp->body && !resp->type) {
		json = json_loads(resp->body, JSON_REJECT_DUPLICATES, NULL);
		assert(json);
		assert(resp->status == 200 || json_object_get(json, "fault_message"));
		json_decref(json);
	}
	text = http_print(resp, &len);
	assert(text && strlen(text) == len);
	free(text);
}

static void speak_http(struct api *api, const char *p, size_t size, size_t step)
{
	struct http_reader *h = http_create(MAX_BODY);
	enum http_event ev = HTTP_MORE;

	while (size > 0 && ev != HTTP_BAD) {
		struct http_response resp = {0};
		size_t used;

		ev = http_feed(h, p, MIN(step, size), &used);
		if (ev == HTTP_READY) {
			route_handle(api, http_get(h), &resp);
			http_next(h);
			check_response(&resp);
		} else if (ev == HTTP_BAD) {
			http_error(h, &resp);
			check_response(&resp);
			break;
		} else {
			http_wants_continue(h);
		}
		assert(used <= size);
		p += used;
		size -= used;
	}
	http_destroy(h);
}

static size_t no_events(void *arg, uint64_t *at, char *buf, size_t size)
{
	(void)arg;
	(void)at;
	(void)buf;
	(void)size;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const enum vm_phase phase[4] = {VM_NOT_STARTED, VM_RUNNING, VM_PAUSED,
					       VM_NOT_STARTED};
	struct loop loop = {.epfd = -1};
	struct err e = {0};
	struct metrics metrics;
	struct vm vm;
	struct api api = {.vm = &vm, .metrics = &metrics, .events = {.read = no_events}};

	if (size < 1)
		return 0;
	vm_init(&vm, &loop, "fuzz");
	metrics_init(&metrics, &vm);
	log_set_level(LOG_OFF);
	vm.phase = phase[data[0] >> 1 & 3];
	forbid_open();
	if (data[0] & 1)
		configfile_apply(&api, (const char *)data + 1, size - 1, &e);
	else
		speak_http(&api, (const char *)data + 1, size - 1, 1 + (size_t)(data[0] >> 3) * 8);
	allow_open();
	assert(memchr(e.msg, '\0', sizeof(e.msg)));
	vm.phase = VM_NOT_STARTED;
	metrics_finish(&metrics);
	vm_finish(&vm);
	return 0;
}
