/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/hint.h"

#include "vmm/base/hint.h"
#include "vmm/base/util.h"

static const struct hint hints[] = {
	{{"nknown field"}, "sporectl run --help; the fields are in docs/api-reference.md"},
	{{"/dev/kvm", "ermission denied"},
	 "sudo usermod -aG kvm $USER, then log in again; or all of it as root"},
	{{"/dev/kvm"}, "sporectl doctor"},
	{{"/dev/net/tun"}, "sudo modprobe tun; then: sporectl doctor"},
	{{"execute '"}, "export SPORE=/path/to/spore, or: make install"},
	{{"kernel_image_path", "No such file"},
	 "ls -l KERNEL; make demo builds one in build/guest"},
	{{"kernel_image_path"}, "file KERNEL: it has to be an uncompressed vmlinux or a bzImage"},
	{{"in use", "path_on_host"}, "sporectl ps, then --read-only or --overlay FILE"},
	{{"path_on_host", "No such file"}, "ls -l PATH"},
	{{"path_on_host"}, "ls -l PATH"},
	{{"initrd"}, "ls -l INITRD"},
	{{"host_dev_name"},
	 "sudo ip tuntap add DEVICE mode tap user $USER; sudo ip link set DEVICE up"},
	{{"vcpu_count"}, "nproc: it takes 1 to 32 --cpus"},
	{{"annot allocate memory"}, "free -m, then less --memory"},
	{{"mem_size_mib"}, "free -m, then another --memory"},
	{{"uds_path", "in use"}, "rm SOCKET, if nobody uses it; or another --vsock"},
	{{"uds_path"}, "another --vsock, or --no-vsock"},
	{{"track_dirty_pages"}, "sporectl run --track-dirty ..., or snapshot without --diff"},
	{{"memory_backend"}, "sporectl run --forkable ..., then fork"},
	{{"oo many open files"}, "ulimit -n 4096"},
	{{"No space left"}, "df -h"},
	{{"not a snapshot"}, "spore --describe-snapshot FILE"},
	{{"ermission denied"}, "ls -l FILE, or all of it as root"},
};

const char *hint_for(const char *text)
{
	return hint_find(hints, ARRAY_SIZE(hints), text, NULL);
}
