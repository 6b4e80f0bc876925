/* SPDX-License-Identifier: Apache-2.0 */
/* CPU templates (vmm/cpu_template.h) to and from the JSON of PUT /cpu-config. Main thread. */
#pragma once

#include <jansson.h>

#include "vmm/cpu_template.h"

/*
 * Fills `t`, zeroed, from an object whose keys have been checked. As in Firecracker, members of
 * the items in its lists that are not known are ignored. -EINVAL with `e` filled.
 */
int cpuconfig_read(const json_t *json, struct cpu_template *t, struct err *e);
/* The object that cpuconfig_read() takes; NULL when out of memory. */
json_t *cpuconfig_print(const struct cpu_template *t);
