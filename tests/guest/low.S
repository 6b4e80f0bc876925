/* SPDX-License-Identifier: Apache-2.0 */
/* hello.S, linked at 256 KiB for a machine with 1 MiB of memory. */
#include "hello.S"
