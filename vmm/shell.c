/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/shell.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/machine.h"
#include "vmm/x86_state.h"

#define DEVICES_DEFAULT 4

/* --- the option --- */

/* One "key=number" or "key" of `len` bytes. */
static int parse_word(struct shell_config *s, const char *word, size_t len, struct err *e)
{
	const struct {
		const char *key;
		unsigned long long min, max; /* both 0: a flag */
	} keys[] = {
		{"vcpus", 1, LAYOUT_VCPU_MAX},
		{"mem_mib", 1, CONFIG_MEM_MIB_MAX},
		{"devices", 0, LAYOUT_VIRTIO_MAX},
		{"track_dirty_pages", 0, 0},
		{"pit", 0, 0},
	};
	const char *eq = memchr(word, '=', len);
	size_t key_len = eq ? (size_t)(eq - word) : len, i = 0;
	unsigned long long n = 0;
	char *end;

	while (i < ARRAY_SIZE(keys) &&
	       (strlen(keys[i].key) != key_len || strncmp(keys[i].key, word, key_len) != 0))
		i++;
	if (i == ARRAY_SIZE(keys))
		return err_set(e, EINVAL, "'%.*s': unknown", (int)MIN(key_len, (size_t)32), word);
	if (!eq != !keys[i].max)
		return err_set(e, EINVAL, "%s: %s", keys[i].key,
			       eq ? "takes no value" : "needs a value");
	if (eq) {
		n = strtoull(eq + 1, &end, 10);
		if (!isdigit((unsigned char)eq[1]) || end != word + len || n < keys[i].min ||
		    n > keys[i].max)
			return err_set(e, EINVAL, "%s: not a number within %llu..%llu", keys[i].key,
				       keys[i].min, keys[i].max);
	}
	switch (i) {
	case 0:
		s->vcpus = (unsigned)n;
		break;
	case 1:
		s->mem_mib = n;
		break;
	case 2:
		s->devices = (unsigned)n;
		break;
	case 3:
		s->track_dirty_pages = true;
		break;
	default:
		s->pit = true;
	}
	return 0;
}

int shell_parse(struct shell_config *s, const char *text, struct err *e)
{
	*s = (struct shell_config){.devices = DEVICES_DEFAULT};
	for (;; text++) {
		size_t len = strcspn(text, ",");
		int r = parse_word(s, text, len, e);

		if (r < 0)
			return r;
		text += len;
		if (!*text)
			break;
	}
	if (!s->vcpus || !s->mem_mib)
		return err_set(e, EINVAL, "%s: missing", s->vcpus ? "mem_mib" : "vcpus");
	return 0;
}

/* --- the machine --- */

/* As a start sets it: what a snapshot of this host has, most likely, and then need not be set again. */
static int set_cpuid(struct vm_machine *m, unsigned vcpus, struct err *e)
{
	const struct x86_topology topology = {.vcpus = vcpus};
	struct x86_cpuid cpuid;
	int r = x86_cpuid_supported(&m->kvm, &cpuid, e);

	for (unsigned i = 0; r == 0 && i < vcpus; i++) {
		x86_cpuid_shape(&cpuid, &topology, i, m->kvm.tsc_deadline);
		r = x86_set_cpuid(&m->vcpu[i], &cpuid, e);
	}
	return r;
}

#define STACK_TOUCHED KIB(48)

/* Each page that is touched now is a page fault less then. */
static void touch_pages(struct vm_machine *m)
{
	volatile uint8_t stack[STACK_TOUCHED];

	for (size_t i = 0; i < sizeof(stack); i += GMEM_PAGE)
		stack[i] = 0;
	for (unsigned i = 0; i < m->vcpus.count; i++)
		for (size_t at = 0; at < m->vcpu[i].run_size; at += GMEM_PAGE)
			(void)((volatile uint8_t *)m->vcpu[i].run)[at];
}

static int build(struct vm_machine *m, const struct shell_config *s, struct err *e)
{
	struct config *c = &m->vm->config;
	struct gmem_region ram[3];
	int n = hotplug_layout(c, ram, e);
	int r = n < 0 ? n : gmem_reserve(&m->mem, ram, (unsigned)n, e);

	if (r == 0)
		r = machine_build_kvm(m, &c->machine, e);
	if (r == 0)
		r = machine_build_platform(m, c, e);
	if (r == 0)
		r = machine_build_spare(m, s->devices, e);
	if (r == 0)
		r = vcpu_set_init(&m->vcpus, &m->kvm, m->vcpu, s->vcpus, &m->pio, &m->mmio, e);
	if (r == 0)
		r = set_cpuid(m, s->vcpus, e);
	m->vcpus.warm = true;
	if (r == 0)
		r = vcpu_set_start(&m->vcpus, m->vm->seccomp, e);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < s->vcpus; i++)
		m->vcpu[i].tsc_khz = ioctl(m->vcpu[i].fd, KVM_GET_TSC_KHZ, 0);
	m->host = x86_host_fingerprint(&m->kvm);
	m->warm = true;
	touch_pages(m);
	return 0;
}

int shell_prepare(struct vm *vm, const struct shell_config *s, struct err *e)
{
	struct machine_config *c = &vm->config.machine;
	struct vm_machine *m;
	int r;

	c->vcpu_count = s->vcpus;
	c->mem_size_mib = s->mem_mib;
	c->track_dirty_pages = s->track_dirty_pages;
	c->pit = s->pit;
	m = machine_create(vm, e);
	if (!m)
		return -ENOMEM;
	r = build(m, s, e);
	if (r < 0)
		machine_destroy(m);
	else
		vm->shell = m;
	return r;
}

int shell_fits(const struct vm *vm, const struct shell_need *need, struct err *e)
{
	const struct machine_config *have = &vm->config.machine;

	if (need->hotplug)
		return err_set(e, EINVAL, "a shell has no memory that can be hotplugged");
	if (need->vcpus != have->vcpu_count || need->mem_size != MIB(have->mem_size_mib))
		return err_set(
			e, EINVAL,
			"this shell has %u vCPUs and %llu MiB, the snapshot needs %u and %llu",
			have->vcpu_count, (unsigned long long)have->mem_size_mib, need->vcpus,
			(unsigned long long)(need->mem_size >> 20));
	if (need->pit != have->pit)
		return err_set(e, EINVAL, "this shell has %s i8254, the snapshot needs %s",
			       have->pit ? "an" : "no", need->pit ? "one" : "none");
	return 0;
}
