/* SPDX-License-Identifier: Apache-2.0 */
/* What to type next, for errors that others have worded: the kernel, spore. */
#pragma once

#include <stddef.h>

/* A command or advice for the error `text`, or NULL. Static. */
const char *hint_for(const char *text);
