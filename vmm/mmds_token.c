/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/mmds_token.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/base/random.h"

void mmds_tokens_finish(struct mmds_tokens *t)
{
	free(TAKE(t->token));
}

/* One that is not valid any more, else the one whose last use is the longest ago. */
static struct mmds_token *oldest(struct mmds_tokens *t, uint64_t now_ns)
{
	struct mmds_token *found = &t->token[0];

	for (unsigned i = 0; i < MMDS_TOKENS; i++) {
		struct mmds_token *token = &t->token[i];

		if (token->expires_ns <= now_ns)
			return token;
		if (token->used_ns < found->used_ns)
			found = token;
	}
	return found;
}

int mmds_token_make(struct mmds_tokens *t, uint64_t now_ns, uint64_t expires_ns,
		    char text[MMDS_TOKEN_TEXT])
{
	struct mmds_token new = {.expires_ns = expires_ns, .used_ns = now_ns};

	if (!t->token)
		t->token = calloc(MMDS_TOKENS, sizeof(*t->token));
	if (!t->token)
		return -ENOMEM;
	if (random_bytes(new.secret, sizeof(new.secret)) != sizeof(new.secret))
		return -EAGAIN;
	*oldest(t, now_ns) = new;
	for (unsigned i = 0; i < MMDS_TOKEN_BYTES; i++)
		snprintf(text + 2 * i, 3, "%02x", new.secret[i]);
	return 0;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool parse(const char *text, uint8_t secret[MMDS_TOKEN_BYTES])
{
	if (strlen(text) != MMDS_TOKEN_TEXT - 1)
		return false;
	for (unsigned i = 0; i < MMDS_TOKEN_BYTES; i++) {
		int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		secret[i] = (uint8_t)(high * 16 + low);
	}
	return true;
}

/* How long it takes does not tell how much of a guess was right. */
static bool equal(const uint8_t a[MMDS_TOKEN_BYTES], const uint8_t b[MMDS_TOKEN_BYTES])
{
	unsigned differ = 0;

	for (unsigned i = 0; i < MMDS_TOKEN_BYTES; i++)
		differ |= (unsigned)(a[i] ^ b[i]);
	return differ == 0;
}

bool mmds_token_valid(struct mmds_tokens *t, const char *text, uint64_t now_ns)
{
	uint8_t secret[MMDS_TOKEN_BYTES];

	if (!t->token || !parse(text, secret))
		return false;
	for (unsigned i = 0; i < MMDS_TOKENS; i++) {
		struct mmds_token *token = &t->token[i];

		if (token->expires_ns > now_ns && equal(token->secret, secret)) {
			token->used_ns = now_ns;
			return true;
		}
	}
	return false;
}
