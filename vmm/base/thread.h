/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <pthread.h>
#include <stddef.h>

/* Starts `run(arg)` with a stack of so many bytes. To be joined. Any thread. 0 or -errno. */
int thread_start(pthread_t *thread, size_t stack, void *(*run)(void *arg), void *arg);
