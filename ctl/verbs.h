/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs; ctl/main.c lists them. */
#pragma once

#include "ctl/ctl.h"

int verb_run(struct ctl *c, int argc, char **argv);
int verb_ps(struct ctl *c, int argc, char **argv);
int verb_top(struct ctl *c, int argc, char **argv);
int verb_logs(struct ctl *c, int argc, char **argv);
int verb_console(struct ctl *c, int argc, char **argv);
int verb_stop(struct ctl *c, int argc, char **argv);
int verb_rm(struct ctl *c, int argc, char **argv);
int verb_pause(struct ctl *c, int argc, char **argv);
int verb_resume(struct ctl *c, int argc, char **argv);
int verb_snapshot(struct ctl *c, int argc, char **argv);
int verb_restore(struct ctl *c, int argc, char **argv);
int verb_clone(struct ctl *c, int argc, char **argv);
int verb_fork(struct ctl *c, int argc, char **argv);
int verb_migrate(struct ctl *c, int argc, char **argv);
int verb_receive(struct ctl *c, int argc, char **argv);
int verb_pool(struct ctl *c, int argc, char **argv);
int verb_events(struct ctl *c, int argc, char **argv);
int verb_metrics(struct ctl *c, int argc, char **argv);
int verb_doctor(struct ctl *c, int argc, char **argv);
int verb_completion(struct ctl *c, int argc, char **argv);
int verb_exec(struct ctl *c, int argc, char **argv);
int verb_cp(struct ctl *c, int argc, char **argv);
int verb_identity(struct ctl *c, int argc, char **argv);
int verb_kernel(struct ctl *c, int argc, char **argv);
int verb_image(struct ctl *c, int argc, char **argv);
