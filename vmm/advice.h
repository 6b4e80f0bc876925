/* SPDX-License-Identifier: Apache-2.0 */
/* What to type next after an error with which spore ends before a guest has run. */
#pragma once

/* Static; for the exit code VM_EXIT_ERROR NULL when nothing is known. */
const char *advice_for(const char *text, int exit_code);
