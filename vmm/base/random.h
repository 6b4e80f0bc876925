/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random bytes of the host's kernel. A generator of our own would be a system call less again, but
 * one whose process is copied with its host (a virtual machine that is cloned itself) would tell
 * both copies the same.
 */
#pragma once

#include "vmm/base/util.h"

/*
 * From now on by reading /dev/urandom, which needs no system call that is not made anyway. False
 * when it is not there: then by getrandom(2) as before. The kernel has had random bytes to give
 * already. Main thread, while it is the only one that asks for any.
 */
bool random_open(void);

/*
 * Never waits. How many bytes of `buf` were written: less than `len` only if the kernel has none to
 * give. Any thread.
 */
size_t random_bytes(void *buf, size_t len);
