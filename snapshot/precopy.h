/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rounds of copying guest memory while the guest changes it: for snapshot/live.c, whose copy is a file,
 * and snapshot/send.c, whose copy is another process. What is copied by a thread that exists for one
 * step at a time, and which inherits the main thread's filter; in between the main thread asks what
 * has been written since. Main thread, but for what a step does.
 */
#pragma once

#include "snapshot/pageset.h"
#include "vmm/machine.h"

/* What is left for the pause when the rounds have done their work: 4 MiB, a millisecond. */
#define PRECOPY_LAST_PAGES 1024u

struct precopy {
	struct vm *vm;	       /* borrowed */
	struct pageset *dirty; /* all that was taken from the tracking so far; borrowed */
	bool logging;	       /* KVM's log is on for this only */
	unsigned round;	       /* that was copied last, from 1 on */
	uint64_t count;	       /* pages of it: a step sets it */
	struct pageset next;   /* to be copied */
	_Atomic bool stop;     /* a step ends early */
	int r;		       /* of the step that was taken last */
	struct err e;
	int (*step)(void *arg, struct err *e);
	void (*stepped)(void *arg); /* from the loop, when the thread is gone */
	void *arg;
	pthread_t thread;
	bool has_thread;
	_Atomic bool done; /* the step is */
};

/* Of a started machine, one at a time (-EBUSY). `stepped` is called with `arg` after every step. The caller finishes `p`, also when this fails. */
int precopy_init(struct precopy *p, struct vm *vm, struct pageset *dirty,
		 void (*stepped)(void *arg), void *arg, struct err *e);
/* No step is under way. Also of a zeroed one. */
void precopy_finish(struct precopy *p);
/* From here on it is known what is written; p->next is what was before, if that is tracked. */
int precopy_begin(struct precopy *p, struct err *e);
/* The log is off again, if it was off before. */
void precopy_end(struct precopy *p);
/* Starts the thread, which calls step(arg). */
int precopy_step(struct precopy *p, int (*step)(void *arg, struct err *e), struct err *e);
/* Waits for the thread's end; p->stop makes it come. */
void precopy_join(struct precopy *p);
/* p->next becomes what has changed since it was asked for last; the guest runs. */
int precopy_take(struct precopy *p, struct err *e);
/* Whether another round would not leave less than the one before. */
bool precopy_stalls(const struct precopy *p);

/* Finishes what the devices have in flight, until precopy_thaw(). */
int precopy_drain(struct vm_machine *m, struct err *e);
/* Moves what the log says into `s`, for forks: it begins anew. No device has a request in flight. */
int precopy_take_log(struct vm_machine *m, struct pageset *s, struct err *e);
/* The same for everybody else, also what forks have taken meanwhile; adds it to `all`. */
int precopy_collect(struct vm_machine *m, struct pageset *s, struct pageset *all, struct err *e);
/* Drained devices go on with what they have put back. */
void precopy_thaw(struct vm_machine *m);
