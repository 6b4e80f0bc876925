/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "vmm/base/random.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "vmm/base/fd.h"

static int device = -1;

bool random_open(void)
{
	struct stat st;

	if (device >= 0)
		return true;
	device = fd_open_path("/dev/urandom", O_RDONLY, 0);
	/* Whoever made the root directory may have put something else there. */
	if (device >= 0 &&
	    (fd_stat(device, &st) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 9)))
		fd_close(&device);
	return device >= 0;
}

size_t random_bytes(void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		uint8_t *at = (uint8_t *)buf + done;
		ssize_t r = device >= 0 ? fd_read(device, at, len - done)
					: getrandom(at, len - done, GRND_NONBLOCK);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			break;
		done += (size_t)r;
	}
	return done;
}
