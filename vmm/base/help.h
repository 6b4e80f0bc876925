/* SPDX-License-Identifier: Apache-2.0 */
/* A line of --help. */
#pragma once

/*
 * Writes two spaces, `left` in `width` columns and `text` beside it to `fd`; the text goes on below itself where 80 columns
 * end. A word is never split. At most 63 bytes of `left` are written.
 */
void help_print(int fd, const char *left, unsigned width, const char *text);
