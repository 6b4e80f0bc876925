/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One shell of a pool and its API: between pool.c, which starts and collects them, and pool_shell.c.
 */
#pragma once

#include "ctl/pool.h"

/*
 * Connects to its API and asks for what makes it ready. 0 also when it does not listen yet; it is
 * starting then.
 */
int shell_connect(struct pool_shell *s, struct err *e);
/*
 * What has come of what it was asked for. `failed` NULL: it is done; else it is dropped, and
 * who waits is told.
 */
void shell_conclude(struct pool_shell *s, const char *failed);
/* The same, of one that is no more: with what it said last. */
void shell_ended(struct pool_shell *s);
