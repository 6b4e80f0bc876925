/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Session tokens of the metadata service: random numbers that are remembered until they expire. They
 * are this process's own, so that those of another microVM, or of the one that this one was cloned
 * from, are worth nothing here. A guest may ask for any number of them; MMDS_TOKENS are
 * remembered, and the one that was not used for the longest time gives way. Main thread.
 */
#pragma once

#include "vmm/base/util.h"

#define MMDS_TOKENS	 512u
#define MMDS_TOKEN_BYTES 32u
#define MMDS_TOKEN_TEXT	 (2 * MMDS_TOKEN_BYTES + 1) /* in hexadecimal, with a zero */

struct mmds_token {
	uint8_t secret[MMDS_TOKEN_BYTES];
	uint64_t expires_ns; /* 0: none */
	uint64_t used_ns;
};

/* Zeroed: none is valid. */
struct mmds_tokens {
	struct mmds_token *token; /* MMDS_TOKENS of them; NULL before the first */
};

void mmds_tokens_finish(struct mmds_tokens *t);
/* Makes one and fills `text`. 0, -EAGAIN when there is no randomness, or -ENOMEM. */
int mmds_token_make(struct mmds_tokens *t, uint64_t now_ns, uint64_t expires_ns,
		    char text[MMDS_TOKEN_TEXT]);
/* Whether `text` is one of ours that is not expired. */
bool mmds_token_valid(struct mmds_tokens *t, const char *text, uint64_t now_ns);
