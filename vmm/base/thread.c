/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/base/thread.h"

int thread_start(pthread_t *thread, size_t stack, void *(*run)(void *arg), void *arg)
{
	pthread_attr_t attr;
	int r;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, stack);
	r = pthread_create(thread, &attr, run, arg);
	pthread_attr_destroy(&attr);
	return -r;
}
