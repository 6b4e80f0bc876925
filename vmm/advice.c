/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/advice.h"

#include "vmm/base/hint.h"
#include "vmm/base/util.h"
#include "vmm/vm.h"

static const struct hint hints[] = {
	{{"unknown field"},
	 "jq . FILE, and one of the expected names; docs/api-reference.md has them"},
	{{"'/dev/kvm' is missing"},
	 "sudo modprobe kvm_intel || sudo modprobe kvm_amd; then: sporectl doctor"},
	{{"/dev/kvm"}, "sudo usermod -aG kvm $USER, and log in again; then: sporectl doctor"},
	{{"nobody listens on it"}, "rm SOCKET, or: spore --api-sock /tmp/other.sock"},
	{{"in use by a running"}, "spore --api-sock /tmp/other.sock; who it is: ss -xlp"},
	{{"API socket"}, "spore --api-sock /tmp/spore.sock"},
	{{"kernel_image_path", "not an ELF"}, "file KERNEL: a vmlinux or a bzImage is needed"},
	{{"kernel_image_path"},
	 "ls -l KERNEL; make demo, in spore's source, leaves one in build/guest"},
	{{"without kernel"},
	 "jq 'keys' FILE: it needs \"boot-source\": {\"kernel_image_path\": \"vmlinux\"}"},
	{{"initrd_path"}, "ls -l INITRD"},
	{{"path_on_host", "in use"},
	 "fuser -v DISK: who uses it; or \"is_read_only\": true for both"},
	{{"path_on_host", "ermission"}, "ls -l DISK, or \"is_read_only\": true"},
	{{"path_on_host"}, "ls -l DISK"},
	{{"/dev/net/tun"}, "sudo modprobe tun; then: sporectl doctor"},
	{{"host_dev_name", "No such"},
	 "sudo ip tuntap add TAP mode tap user $USER; sudo ip link set TAP up"},
	{{"host_dev_name"}, "ip -details link show TAP: whose it is"},
	{{"uds_path"}, "rm SOCKET, if nobody uses it; or another \"uds_path\""},
	{{"vcpu_count", "not within"}, "nproc, and a number in these bounds"},
	{{"mem_size_mib", "not within"}, "free -m, and a number in these bounds"},
	{{"annot allocate memory"}, "free -m, and less \"mem_size_mib\""},
	{{"config file", " at line "}, "jq . FILE"},
	{{"config file", "No such file"}, "ls -l FILE; man spore has an example"},
	{{"config file", "ermission denied"}, "ls -l FILE"},
	{{"--log-path"}, "ls -ld DIRECTORY: it has to exist"},
	{{"--metrics-path"}, "ls -ld DIRECTORY: it has to exist"},
};

const char *advice_for(const char *text, int exit_code)
{
	const char *otherwise = exit_code == VM_EXIT_ARG_PARSING ? "spore --help"
				: exit_code == VM_EXIT_BAD_CONFIG
					? "jq . FILE; docs/api-reference.md has all fields"
					: NULL;

	return hint_find(hints, ARRAY_SIZE(hints), text, otherwise);
}
