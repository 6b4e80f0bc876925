/* SPDX-License-Identifier: Apache-2.0 */
/* What lwIP asks of the compiler and the platform. */
#pragma once

#include <stdlib.h>

#define LWIP_PLATFORM_DIAG(x)
/* Its assertions are about itself; without their texts they cost next to nothing. */
#define LWIP_PLATFORM_ASSERT(x) abort()
