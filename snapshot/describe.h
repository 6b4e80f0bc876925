/* SPDX-License-Identifier: Apache-2.0 */
/* What a state file is, as JSON for --describe-snapshot --json. Main thread, no VM needed. */
#pragma once

#include "vmm/base/err.h"

/*
 * Writes one object and a newline to `out_fd`; also of a file whose sections are not known. The
 * messages do not name the file. 0 or -errno.
 */
int describe_json(int state_fd, int out_fd, struct err *e);
