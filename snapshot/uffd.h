/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory that another process brings page by page (userfaultfd(2)), with Firecracker's
 * handshake: spore connects to the handler's Unix socket and sends one message, a JSON array with an
 * object for each memory region
 *
 *	{"base_host_virt_addr", "size", "offset", "page_size", "page_size_kib"}
 *
 * (both page sizes are bytes), and with it the userfaultfd. Nothing else is ever sent; the socket
 * stays open, so that the handler sees our end. Main thread.
 */
#pragma once

#include "vmm/base/gmem.h"

/*
 * A userfaultfd for all of `m`, new anonymous or hugetlbfs memory: for pages that are missing, and to be told
 * when some are discarded. Owned by the caller; or -errno.
 */
int uffd_open(const struct gmem *m, struct err *e);

/*
 * Registers all of `m`, new anonymous or hugetlbfs memory, and hands it to the handler. On success
 * *uffd and *handler are the caller's, to be kept open as long as the memory is used: were ours
 * closed, pages would read as zeroes once the handler dies; so the guest waits for ever, which can be seen.
 */
int uffd_serve(const struct gmem *m, const char *socket_path, int *uffd, int *handler,
	       struct err *e);
