/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs; ctl/main.c lists them. */
#pragma once

#include "ctl/ctl.h"

int verb_ps(struct ctl *c, int argc, char **argv);
