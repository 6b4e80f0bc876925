/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/hint.h"

#include <string.h>

#include "vmm/base/util.h"

/* All words of a row are in the message. The first row that fits counts. */
static const struct {
	const char *words[3];
	const char *hint;
} hints[] = {
	{{"/dev/kvm", "ermission denied"},
	 "sudo usermod -aG kvm $USER, then log in again; or sudo sporectl ..."},
	{{"/dev/kvm"}, "sporectl doctor"},
	{{"/dev/net/tun"}, "sudo modprobe tun; see: sporectl doctor"},
	{{"ermission denied", "/run/spore"},
	 "sudo sporectl ..., or: export SPORE_STATE=$HOME/.spore"},
	{{"host_dev_name", "peration not permitted"},
	 "sudo sporectl ..., or: sudo ip tuntap add NAME mode tap user $USER"},
	{{"host_dev_name"}, "sudo ip tuntap add NAME mode tap user $USER"},
	{{"is in use"}, "sporectl ps, then --read-only or --overlay FILE"},
	{{"not a kernel"}, "file KERNEL: it has to be an uncompressed vmlinux or a bzImage"},
	{{"live_snapshots"},
	 "sporectl run --live-snapshots ... before, or sporectl snapshot without --live"},
	{{"track_dirty_pages"},
	 "sporectl run --track-dirty ... before, or sporectl snapshot without --diff"},
	{{"annot allocate memory"}, "free -m, then run with less --memory"},
	{{"oo many open files"}, "ulimit -n 4096"},
};

const char *hint_for(const char *text)
{
	for (size_t i = 0; i < ARRAY_SIZE(hints); i++) {
		bool fits = true;

		for (size_t n = 0; n < ARRAY_SIZE(hints[i].words) && hints[i].words[n]; n++)
			fits = fits && strstr(text, hints[i].words[n]);
		if (fits)
			return hints[i].hint;
	}
	return NULL;
}
