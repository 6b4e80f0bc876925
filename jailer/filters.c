/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every system call that spore makes from the moment on that it listens to anybody, and why.
 *
 * A device or feature that needs one more adds a line here: the end-to-end tests run with the
 * filters on, and the log names the call that is missing. Before adding, look whether it can
 * be done before the filter or with what is there; then check every argument that is a number.
 * Each line is paid for: by the attacker's freedom, and by microseconds of every start.
 *
 * What is left out on purpose: rt_sigaction but for two signals before the start (so that the
 * handler that reports a violation cannot be replaced), mprotect (vmm/base/musl.c), mmap with PROT_EXEC, execve,
 * ptrace, process_vm_*, kill, prctl but for a thread's name, fork and clone3 (whose flags are behind a
 * pointer), sockets of every family but AF_UNIX, ioctl but for the listed requests, and the futex
 * operations with priority inheritance. Attaching to a tap is allowed only if an interface is a placeholder,
 * sending descriptors to others only if memory is a memfd.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/membarrier.h>
#include <linux/memfd.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "jailer/filter.h"

#define BOOT   FILTER_BOOT
#define MAIN   FILTER_MAIN
#define VCPU   FILTER_VCPU
#define FETCH  FILTER_FETCH
#define ALL    (FILTER_MAIN | FILTER_VCPU)
#define EACH   (ALL | FETCH)
/* With MAIN, only if it is needed. */
#define PLUG   FILTER_WITH(SECCOMP_PLUG)
#define FORK   FILTER_WITH(SECCOMP_FORK)
#define VSOCK  FILTER_WITH(SECCOMP_VSOCK)
#define PEERS  FILTER_WITH(SECCOMP_PEERS)
#define RANDOM FILTER_WITH(SECCOMP_RANDOM)

/* Argument `i`, an int or flags: is `v`; has none of the bits of `m`; is `v` apart from bits `m`. */
#define IS(i, v)                                                      \
	{                                                             \
		.index = (i), .op = FILTER_EQ, .value = (uint32_t)(v) \
	}
#define WITHOUT(i, m)                                                    \
	{                                                                \
		.index = (i), .op = FILTER_MASKED, .mask = (uint32_t)(m) \
	}
#define APART(i, m, v)                                                                   \
	{                                                                                \
		.index = (i), .op = FILTER_MASKED, .mask = (uint32_t) ~(m), .value = (v) \
	}
#define CALL(name, who_, why_, ...)                                                     \
	{                                                                               \
		.nr = __NR_##name, .who = (who_), .why = (why_), .arg = { __VA_ARGS__ } \
	}
#define REFUSED(name, who_, error_, why_)                                           \
	{                                                                           \
		.nr = __NR_##name, .who = (who_), .error = (error_), .why = (why_), \
	}
#define IOCTL(who, request, why) CALL(ioctl, who, why, IS(1, request))

/* What musl asks for a thread. */
#define THREAD_FLAGS                                                                        \
	(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | \
	 CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID | CLONE_DETACHED)
#ifndef MADV_POPULATE_READ /* since Linux 5.14 */
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

/* clang-format off */
const struct filter_rule filter_table[] = {
	/* --- what every thread does --- */
	CALL(preadv2, EACH, "all reading: files, taps, sockets, eventfds, the terminal; on a vCPU thread what a reset finds half-done"),
	CALL(pwritev2, EACH, "all writing: the same, log, metrics"),
	CALL(futex, EACH, "mutexes and condition variables: wait and wake", APART(1, FUTEX_PRIVATE_FLAG | FUTEX_WAKE, FUTEX_WAIT)),
	CALL(futex, EACH, "condition variables: from one waiter to the next", APART(1, FUTEX_PRIVATE_FLAG, FUTEX_REQUEUE)),
	CALL(epoll_ctl, ALL, "a device changes what the loop watches, from a register write too"),
	CALL(poll, EACH, "the log asks whether its sink would block"),
	CALL(clock_gettime, EACH, "times: CPU clocks, and all clocks where the vDSO cannot"),
	CALL(rt_sigreturn, EACH, "the end of the handler that interrupts KVM_RUN"),
	CALL(rt_sigprocmask, EACH, "musl around pthread_kill(), raise() and the end of a thread"),
	CALL(exit_group, EACH, "the end of the process; also from the handlers of fatal signals"),
	IOCTL(EACH, TCSETS, "give the terminal back at the end, also after a fatal signal"),

	/* --- vCPU threads --- */
	IOCTL(VCPU, KVM_RUN, "vCPU: run the guest"),
	IOCTL(VCPU, KVM_GET_REGS, "vCPU: tell where the guest was when KVM gave up"),
	CALL(exit, EACH, "a thread ends after a failed start, or when it has prefetched or copied"),
	CALL(madvise, FETCH, "restore: the thread that prefetches, large reads", IS(2, MADV_WILLNEED)),
	CALL(madvise, FETCH, "the same, pages that will be read", IS(2, MADV_POPULATE_READ)),
	CALL(madvise, FETCH, "the same, pages that will be written", IS(2, MADV_POPULATE_WRITE)),
	IOCTL(FETCH, UFFDIO_COPY, "restore: the thread that brings memory from its file, or from the source of a migration"),
	IOCTL(FETCH, UFFDIO_UNREGISTER, "the same, when all is there"),

	/* --- main thread --- */
	CALL(epoll_pwait, MAIN, "the event loop"),
	CALL(getrusage, MAIN, "GET /metrics: page faults, CPU time", IS(0, RUSAGE_SELF)),
	CALL(accept4, MAIN, "an API connection", IS(3, SOCK_CLOEXEC | SOCK_NONBLOCK)),
	CALL(shutdown, MAIN, "the end of an API connection"),
	CALL(close, MAIN, "API connections"),
	CALL(fdatasync, MAIN, "block device: flush"),
	CALL(fallocate, MAIN, "block device: discard and write zeroes; balloon: give back memory of a memfd; snapshot: no block for the last byte"),
	CALL(io_uring_enter, ALL, "block device: asynchronous requests; a reset waits for them. The ring itself allows reads, writes and syncs only"),
	CALL(openat2, MAIN, "PATCH /drives: another file; snapshot: new files; SIGUSR2: log and metrics again"),
	CALL(fcntl, MAIN, "the same: flags of the file", IS(1, F_SETFL)),
	CALL(fcntl, MAIN, "the same: a duplicate for the device", IS(1, F_DUPFD_CLOEXEC)),
	CALL(fcntl, MAIN, "musl: the duplicate once more", IS(1, F_SETFD)),
	CALL(fcntl, MAIN, "the same: was /dev/fd/<number> inherited", IS(1, F_GETFD)),
	CALL(fcntl, MAIN, "the same: and what it is open for", IS(1, F_GETFL)),
	CALL(fcntl, MAIN, "a drive is locked while it is in use", IS(1, F_OFD_SETLK)),
	IOCTL(MAIN, BLKGETSIZE64, "PATCH /drives: size of a block device"),
	CALL(newfstatat, MAIN, "PATCH /drives: what is it; is a socket still ours, before it is removed; snapshot: what has its name"),
	IOCTL(MAIN, TUNSETOFFLOAD, "tap: what the guest's driver accepts"),
	IOCTL(MAIN, TUNSETQUEUE, "tap: queue pairs that the guest's driver uses"),
	CALL(socket, MAIN, "vsock: the guest connects to the host; a tap: what its name is asked with", IS(0, AF_UNIX), IS(1, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)),
	CALL(connect, MAIN, "vsock: the same; only sockets of the line above can"),
	CALL(madvise, MAIN, "balloon; vsock: give back what a connection had buffered", IS(2, MADV_DONTNEED)),
	IOCTL(MAIN, KVM_SET_USER_MEMORY_REGION, "memory hotplug: a part of memory that the guest plugs or unplugs"),
	IOCTL(MAIN, KVM_KVMCLOCK_CTRL, "resume: the guest's watchdogs are told of the pause"),
	REFUSED(brk, MAIN, ENOMEM, "malloc: mmap() will do"),
	CALL(mmap, MAIN, "malloc, stacks of threads; guest memory and run areas of vCPUs before the start", WITHOUT(2, PROT_EXEC)),
	CALL(munmap, MAIN, "malloc"),
	CALL(madvise, MAIN, "free", IS(2, MADV_FREE)),
	REFUSED(mremap, MAIN, ENOMEM, "realloc: it copies instead"),
	CALL(tkill, MAIN, "interrupt KVM_RUN", IS(1, SIGUSR1)),
	CALL(tkill, MAIN, "abort() of a failed assertion", IS(1, SIGABRT)),
	CALL(tkill, MAIN, "end by the signal that asked for the end", IS(1, SIGTERM)),
	CALL(tkill, MAIN, "end by the signal that asked for the end", IS(1, SIGINT)),
	CALL(tkill, MAIN, "end by the signal that asked for the end", IS(1, SIGQUIT)),

	/* --- main thread: PUT /snapshot/create --- */
	IOCTL(MAIN, FICLONE, "snapshot: what a diff leaves as it was"),
	CALL(lseek, MAIN, "snapshot: data and holes of memory files"),
	CALL(mincore, MAIN, "snapshot: memory that the guest never touched is not read"),
	CALL(sysinfo, MAIN, "snapshot: unless the host has swapped"),
	CALL(fsync, MAIN, "snapshot: durable before it has its name"),
	CALL(renameat, MAIN, "snapshot: its name"),
	CALL(unlinkat, MAIN, "snapshot: what a failed one leaves; sockets at the end", IS(2, 0)),
	IOCTL(MAIN, KVM_CHECK_EXTENSION, "snapshot: size of the XSAVE area"),
	IOCTL(MAIN, KVM_GET_DIRTY_LOG, "snapshot: pages that the guest has written"),
	IOCTL(MAIN, KVM_GET_CLOCK, "snapshot: state of the VM"),
	IOCTL(MAIN, KVM_GET_IRQCHIP, "snapshot: state of the VM"),
	IOCTL(MAIN, KVM_GET_PIT2, "snapshot: state of the VM"),
	IOCTL(MAIN, KVM_GET_MSR_INDEX_LIST, "snapshot: state of a vCPU"),
	IOCTL(MAIN, KVM_GET_MSRS, "snapshot: state of a vCPU"),
	IOCTL(MAIN, KVM_GET_REGS, "snapshot: state of a vCPU"),
	IOCTL(MAIN, KVM_GET_SREGS, "snapshot: state of a vCPU"),
	IOCTL(MAIN, KVM_GET_XSAVE, "snapshot: state of a vCPU"),
	IOCTL(MAIN, KVM_GET_XSAVE2, "snapshot: state of a vCPU"),
	IOCTL(MAIN, KVM_GET_XCRS, "snapshot: state of a vCPU"),
	IOCTL(MAIN, KVM_GET_DEBUGREGS, "snapshot: state of a vCPU"),
	IOCTL(MAIN, KVM_GET_LAPIC, "snapshot: state of a vCPU"),
	IOCTL(MAIN, KVM_GET_MP_STATE, "snapshot: state of a vCPU"),
	IOCTL(MAIN, KVM_GET_VCPU_EVENTS, "snapshot: state of a vCPU"),
	IOCTL(MAIN, KVM_GET_TSC_KHZ, "snapshot: state of a vCPU"),

	/* --- main thread: PUT /snapshot/create with "live" --- */
	CALL(clone, MAIN, "live snapshot: the copying thread; threads, nothing else", IS(0, THREAD_FLAGS)),

	/* --- main thread, if there is a vsock device --- */
	CALL(recvmsg, VSOCK, "vsock: data from the host, without the descriptors that came with it"),

	/* --- main thread, if --api-allow lists who may connect --- */
	CALL(getsockopt, PEERS, "whose API connection it is", IS(1, SOL_SOCKET), IS(2, SO_PEERCRED)),

	/* --- main thread, if there is no /dev/urandom --- */
	CALL(getrandom, RANDOM, "entropy device, identities of snapshots, tokens of the metadata service"),

	/* --- main thread, if an interface is a placeholder: its tap comes while the guest runs --- */
	IOCTL(BOOT | PLUG, SIOCGIFINDEX, "tap: is there one of that name"),
	IOCTL(BOOT | PLUG, TUNSETIFF, "tap: attach"),
	IOCTL(BOOT | PLUG, TUNGETIFF, "tap: what an inherited descriptor is"),
	IOCTL(BOOT | PLUG, TUNSETVNETHDRSZ, "tap: size of the virtio header"),

	/* --- main thread, if memory is a memfd: PUT /vm/fork --- */
	CALL(memfd_create, FORK, "fork: what the guest has written since the last one, and the state", IS(1, MFD_CLOEXEC | MFD_ALLOW_SEALING)),
	CALL(fcntl, FORK, "fork: nobody writes to them any more", IS(1, F_ADD_SEALS)),
	CALL(sendmsg, FORK, "fork: they go to the process that goes on with them", IS(2, MSG_NOSIGNAL | MSG_DONTWAIT)),

	/* --- before the start: API requests that configure, and building the machine --- */
	CALL(seccomp, BOOT, "the filters of MAIN and VCPU", IS(0, SECCOMP_SET_MODE_FILTER), IS(1, 0)),
	CALL(openat, BOOT, "/dev/kvm, /dev/urandom"),
	CALL(getrandom, BOOT, "the guest's seed and generation, as above before /dev/urandom is open"),
	CALL(recvmsg, BOOT, "an API request that comes with descriptors"),
	CALL(uname, BOOT, "which kernel a snapshot belongs to"),
	CALL(sendmsg, BOOT, "restore: the memory's descriptor, to the process that brings it"),
	CALL(eventfd2, BOOT, "interrupts and queue notifications"),
	CALL(memfd_create, BOOT, "guest memory in a memfd", APART(1, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_HUGE_2MB, 0)),
	CALL(ftruncate, BOOT, "its size, that of an overlay"),
	CALL(bind, BOOT, "PUT /vsock"),
	CALL(listen, BOOT, "PUT /vsock"),
	CALL(getpgid, BOOT, "are we in the foreground of the terminal"),
	CALL(rt_sigaction, BOOT, "the handler that interrupts KVM_RUN", IS(0, SIGUSR1)),
	CALL(madvise, BOOT, "guest memory in huge pages", IS(2, MADV_HUGEPAGE)),
	CALL(prctl, BOOT, "the name of a new thread", IS(0, PR_SET_NAME)),
	CALL(membarrier, BOOT, "musl before the first thread", IS(0, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)),
	CALL(fsync, BOOT, "a new overlay"),
	CALL(io_uring_setup, BOOT, "block device: the ring of an asynchronous drive"),
	CALL(io_uring_register, BOOT, "block device: what it may do", IS(1, IORING_REGISTER_RESTRICTIONS)),
	CALL(io_uring_register, BOOT, "block device: and that is final", IS(1, IORING_REGISTER_ENABLE_RINGS)),
	CALL(fcntl, BOOT, "files: lose O_NONBLOCK after the open", IS(1, F_SETFL)),
	CALL(fcntl, BOOT, "devices get a duplicate of their drive", IS(1, F_DUPFD_CLOEXEC)),
	CALL(fcntl, BOOT, "what a descriptor is", IS(1, F_GETFL)),
	CALL(fcntl, BOOT, "was it inherited", IS(1, F_GETFD)),
	IOCTL(BOOT, BLKGETSIZE64, "block device: size"),
	IOCTL(BOOT, TIOCGWINSZ, "terminal: is it one"),
	IOCTL(BOOT, TCGETS, "terminal: its settings"),
	IOCTL(BOOT, TIOCGPGRP, "terminal: are we in the foreground"),
	IOCTL(BOOT, KVM_GET_API_VERSION, "KVM: what it can do"),
	IOCTL(BOOT, KVM_CHECK_EXTENSION, "KVM: what it can do"),
	IOCTL(BOOT, KVM_GET_VCPU_MMAP_SIZE, "KVM: what it can do"),
	IOCTL(BOOT, KVM_GET_SUPPORTED_CPUID, "KVM: what it can do"),
	IOCTL(BOOT, KVM_CREATE_VM, "KVM: the VM"),
	IOCTL(BOOT, KVM_SET_USER_MEMORY_REGION, "VM: memory"),
	IOCTL(BOOT, KVM_SET_TSS_ADDR, "VM: as VMX needs"),
	IOCTL(BOOT, KVM_CREATE_IRQCHIP, "VM: interrupt controllers"),
	IOCTL(BOOT, KVM_CREATE_PIT2, "VM: timer, if asked for"),
	IOCTL(BOOT, KVM_IOEVENTFD, "VM: queue notifications"),
	IOCTL(BOOT, KVM_IRQFD, "VM: interrupts"),
	IOCTL(BOOT, KVM_CREATE_VCPU, "VM: vCPUs"),
	IOCTL(BOOT, KVM_SET_CPUID2, "vCPU: state at the start"),
	IOCTL(BOOT, KVM_GET_MSRS, "vCPU: what a CPU template changes bits of"),
	IOCTL(BOOT, KVM_SET_MSRS, "vCPU: state at the start"),
	IOCTL(BOOT, KVM_GET_SREGS, "vCPU: state at the start"),
	IOCTL(BOOT, KVM_SET_SREGS, "vCPU: state at the start"),
	IOCTL(BOOT, KVM_SET_REGS, "vCPU: state at the start"),
	IOCTL(BOOT, KVM_SET_SIGNAL_MASK, "vCPU of a shell: as far as the guest's first instruction, not further"),
	IOCTL(BOOT, KVM_GET_LAPIC, "vCPU: state at the start"),
	IOCTL(BOOT, KVM_SET_LAPIC, "vCPU: state at the start"),

	/* --- before the start: PUT /snapshot/load --- */
	IOCTL(BOOT, KVM_IRQ_LINE, "restore: the guest is told that it is another one"),
	IOCTL(BOOT, KVM_SET_CLOCK, "restore: state of the VM"),
	IOCTL(BOOT, KVM_SET_IRQCHIP, "restore: state of the VM"),
	IOCTL(BOOT, KVM_SET_PIT2, "restore: state of the VM"),
	IOCTL(BOOT, KVM_SET_XSAVE, "restore: state of a vCPU"),
	IOCTL(BOOT, KVM_SET_XCRS, "restore: state of a vCPU"),
	IOCTL(BOOT, KVM_SET_DEBUGREGS, "restore: state of a vCPU"),
	IOCTL(BOOT, KVM_SET_MP_STATE, "restore: state of a vCPU"),
	IOCTL(BOOT, KVM_SET_VCPU_EVENTS, "restore: state of a vCPU"),
	IOCTL(BOOT, KVM_SET_TSC_KHZ, "restore: state of a vCPU"),
	CALL(userfaultfd, BOOT, "restore: memory that another process brings", IS(0, O_CLOEXEC | O_NONBLOCK)),
	IOCTL(BOOT, USERFAULTFD_IOC_NEW, "restore: the same"),
	IOCTL(BOOT, UFFDIO_API, "restore: the same"),
	IOCTL(BOOT, UFFDIO_REGISTER, "restore: the same"),
	CALL(socket, BOOT, "restore: connect to that process", IS(0, AF_UNIX), IS(1, SOCK_STREAM | SOCK_CLOEXEC)),
};
/* clang-format on */

const size_t filter_table_len = ARRAY_SIZE(filter_table);
