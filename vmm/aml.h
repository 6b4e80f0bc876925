/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small encoder of ACPI Machine Language (ACPI 6.5 chapter 20; resource descriptors section 6.4).
 *
 * Bytes are appended to a buffer that the caller owns. Once it is full, `full` is set and every
 * later call does nothing: one check at the end is enough. What has a length is opened by a
 * function that returns a mark, and closed by aml_end() (aml_resources_end()) with that mark;
 * nesting is by marks. A name is four characters, padded with '_' by the caller. Pure.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
	uint8_t *buf;
	size_t size;
	size_t len; /* bytes written */
	bool full;
};

void aml_init(struct aml *a, uint8_t *buf, size_t size);

/* Scope (\name) and Device (name) in which definitions follow. */
size_t aml_scope(struct aml *a, const char *name);
size_t aml_device(struct aml *a, const char *name);
/* A Package object of `count` elements, which follow. */
size_t aml_package(struct aml *a, uint8_t count);
void aml_end(struct aml *a, size_t mark);

/* Name (name, ...): the object follows. */
void aml_name(struct aml *a, const char *name);
void aml_integer(struct aml *a, uint64_t v);
void aml_string(struct aml *a, const char *s);
/* "PNP0501": three capital letters and four hexadecimal digits. */
void aml_eisaid(struct aml *a, const char *id);

/* Method (name, args, Serialized) in which statements follow. */
size_t aml_method(struct aml *a, const char *name, uint8_t args);
/* If (Arg0 == v) { statements that follow } */
size_t aml_if_arg0_is(struct aml *a, uint64_t v);
/* Notify (name, v): the object is in this scope or one around it. */
void aml_notify(struct aml *a, const char *name, uint8_t v);

/* Name (_CRS, ResourceTemplate () { ... }): descriptors follow. */
size_t aml_resources(struct aml *a);
void aml_resources_end(struct aml *a, size_t mark);
/* `len` ports from `port` on, 16-bit decode. */
void aml_io(struct aml *a, uint16_t port, uint8_t len);
/* Memory32Fixed (ReadWrite, ...) */
void aml_memory(struct aml *a, uint32_t base, uint32_t len);
/* Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) {gsi} */
void aml_interrupt(struct aml *a, uint32_t gsi);
