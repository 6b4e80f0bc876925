/* SPDX-License-Identifier: Apache-2.0 */
#include "api-sock/body.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* How much of a stranger's key or value is repeated in a message. */
#define ECHO_MAX 40

json_t *body_parse(const char *text, size_t len, struct err *e)
{
	json_error_t je;
	json_t *json = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &je);

	if (!json)
		err_set(e, EINVAL, "%s at line %d column %d", je.text, je.line, je.column);
	return json;
}

static const char *type_name(const json_t *v)
{
	switch (json_typeof(v)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
		return "an integer";
	case JSON_REAL:
		return "a floating point number";
	case JSON_TRUE:
	case JSON_FALSE:
		return "a boolean";
	case JSON_NULL:
		return "null";
	}
	return "unknown";
}

static int wrong_type(const struct body_field *f, const json_t *v, const char *want, struct err *e)
{
	return err_set(e, EINVAL, "field `%s`: invalid type: %s, expected %s", f->name,
		       type_name(v), want);
}

static void store_uint(void *out, const struct body_field *f, uint64_t value)
{
	char *at = (char *)out + f->offset;

	switch (f->size) {
	case sizeof(bool):
		*(bool *)at = value != 0;
		break;
	case sizeof(unsigned):
		memcpy(at, &(unsigned){(unsigned)value}, sizeof(unsigned));
		break;
	case sizeof(uint64_t):
		memcpy(at, &value, sizeof(value));
		break;
	default:
		break;
	}
}

static uint64_t load_uint(const void *in, const struct body_field *f)
{
	const char *at = (const char *)in + f->offset;
	unsigned u = 0;
	uint64_t value = 0;

	switch (f->size) {
	case sizeof(bool):
		return *(const bool *)at;
	case sizeof(unsigned):
		memcpy(&u, at, sizeof(u));
		return u;
	case sizeof(uint64_t):
		memcpy(&value, at, sizeof(value));
		return value;
	default:
		return 0;
	}
}

static int read_bool(const struct body_field *f, const json_t *v, void *out, struct err *e)
{
	if (!json_is_boolean(v))
		return wrong_type(f, v, "a boolean", e);
	store_uint(out, f, json_is_true(v));
	return 0;
}

static int read_uint(const struct body_field *f, const json_t *v, void *out, struct err *e)
{
	json_int_t n = json_integer_value(v);

	if (!json_is_integer(v))
		return wrong_type(f, v, "an integer", e);
	if (n < 0 || (uint64_t)n < f->min || (uint64_t)n > f->max)
		return err_set(e, EINVAL, "field `%s`: %lld is not within %llu..%llu", f->name, n,
			       (unsigned long long)f->min, (unsigned long long)f->max);
	store_uint(out, f, (uint64_t)n);
	return 0;
}

static int read_string(const struct body_field *f, const json_t *v, void *out, struct err *e)
{
	size_t max = f->max ? f->max : PATH_MAX - 1;
	char **at = (char **)(void *)((char *)out + f->offset);
	char *copy;

	if (!json_is_string(v))
		return wrong_type(f, v, "a string", e);
	if (json_string_length(v) > max)
		return err_set(e, EINVAL, "field `%s`: %zu bytes, at most %zu are allowed", f->name,
			       json_string_length(v), max);
	copy = strdup(json_string_value(v));
	if (!copy)
		return err_set(e, ENOMEM, "field `%s`: out of memory", f->name);
	free(*at);
	*at = copy;
	return 0;
}

int body_check_id(const char *id, size_t max_len, struct err *e)
{
	size_t len = strlen(id);

	if (len == 0)
		return err_set(e, EINVAL, "The ID cannot be empty.");
	if (len > max_len)
		return err_set(e, EINVAL, "The ID has %zu characters, at most %zu are allowed.",
			       len, max_len);
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)id[i]) && id[i] != '_')
			return err_set(e, EINVAL,
				       "API Resource IDs can only contain alphanumeric characters "
				       "and underscores.");
	return 0;
}

static int read_id(const struct body_field *f, const json_t *v, void *out, struct err *e)
{
	int r;

	if (!json_is_string(v))
		return wrong_type(f, v, "a string", e);
	r = body_check_id(json_string_value(v), f->size - 1, e);
	if (r < 0)
		return err_wrap(e, "field `%s`", f->name);
	strcpy((char *)out + f->offset, json_string_value(v));
	return 0;
}

static const struct body_name *find_name(const struct body_field *f, const char *s)
{
	for (const struct body_name *n = f->names; n->name; n++)
		if ((f->flags & BODY_ANY_CASE ? strcasecmp(n->name, s) : strcmp(n->name, s)) == 0)
			return n;
	return NULL;
}

/* Writes "`a`, `b`" into buf; what does not fit is left out. */
static void list_names(char *buf, size_t size, const struct body_field *f)
{
	size_t n = 0;

	buf[0] = '\0';
	for (const struct body_name *name = f->names; name->name && n < size; name++)
		if (name->value != BODY_REFUSED)
			n += (size_t)snprintf(buf + n, size - n, "%s`%s`", n ? ", " : "",
					      name->name);
}

static int read_enum(const struct body_field *f, const json_t *v, void *out, struct err *e)
{
	const struct body_name *n;
	char list[120];

	if (!json_is_string(v))
		return wrong_type(f, v, "a string", e);
	n = find_name(f, json_string_value(v));
	if (n && n->value != BODY_REFUSED) {
		store_uint(out, f, (uint64_t)n->value);
		return 0;
	}
	list_names(list, sizeof(list), f);
	if (n)
		return err_set(e, EINVAL, "field `%s`: '%s' is not supported, expected %s", f->name,
			       n->name, list);
	return err_set(e, EINVAL, "field `%s`: unknown variant `%.*s`, expected one of %s", f->name,
		       ECHO_MAX, json_string_value(v), list);
}

static int read_text(const char *name, const json_t *v, char *at, size_t size, struct err *e)
{
	if (!json_is_string(v))
		return err_set(e, EINVAL, "field `%s`: invalid type: %s, expected a string", name,
			       type_name(v));
	if (json_string_length(v) >= size)
		return err_set(e, EINVAL, "field `%s`: %zu bytes, at most %zu are allowed", name,
			       json_string_length(v), size - 1);
	strcpy(at, json_string_value(v));
	return 0;
}

static int read_object(const struct body_field *f, const json_t *v, bool partial, void *out,
		       struct err *e)
{
	char *at = (char *)out + f->offset;
	bool whole = f->flags & (BODY_WHOLE | BODY_OWNED);

	if (f->flags & BODY_OWNED) {
		void **owned = (void **)(void *)at;

		at = *owned = calloc(1, f->item);
		if (!at)
			return err_set(e, ENOMEM, "field `%s`: out of memory", f->name);
	} else if (whole) {
		memset(at, 0, f->size);
	}
	if (body_read(f->body, v, partial && !whole, at, e) < 0)
		return err_wrap(e, "field `%s`", f->name);
	return 0;
}

static int read_list(const struct body_field *f, const json_t *v, void *out, struct err *e)
{
	struct vector *list = (void *)((char *)out + f->offset);
	size_t n = json_array_size(v);
	int r = 0;

	if (!json_is_array(v))
		return wrong_type(f, v, "an array", e);
	if (n > f->max)
		return err_set(e, EINVAL, "field `%s`: %zu items, at most %llu are allowed",
			       f->name, n, (unsigned long long)f->max);
	free(list->item);
	list->count = (unsigned)n;
	list->item = calloc(n ? n : 1, f->item);
	if (!list->item)
		return err_set(e, ENOMEM, "field `%s`: out of memory", f->name);
	for (size_t i = 0; r == 0 && i < n; i++) {
		char *at = (char *)list->item + i * f->item;
		const json_t *item = json_array_get(v, i);

		r = f->body ? body_read(f->body, item, false, at, e)
			    : read_text(f->name, item, at, f->item, e);
		if (r < 0 && f->body)
			r = err_wrap(e, "field `%s`: item %zu", f->name, i);
	}
	return r;
}

static int read_map(const struct body_field *f, const json_t *v, void *out, struct err *e)
{
	char **at = (char **)(void *)((char *)out + f->offset);
	const char *key;
	json_t *text;
	char *copy;

	if (!json_is_object(v))
		return wrong_type(f, v, "an object", e);
	if (json_object_size(v) > f->max)
		return err_set(e, EINVAL, "field `%s`: %zu members, at most %llu are allowed",
			       f->name, json_object_size(v), (unsigned long long)f->max);
	json_object_foreach((json_t *)(uintptr_t)v, key, text)
	{
		if (!json_is_string(text))
			return wrong_type(f, text, "strings in it", e);
	}
	copy = json_dumps(v, JSON_COMPACT);
	if (!copy)
		return err_set(e, ENOMEM, "field `%s`: out of memory", f->name);
	free(*at);
	*at = copy;
	return 0;
}

static int read_json(const struct body_field *f, const json_t *v, void *out, struct err *e)
{
	if (!json_is_object(v))
		return wrong_type(f, v, "an object", e);
	memcpy((char *)out + f->offset, &v, sizeof(v));
	return 0;
}

static int read_field(const struct body_field *f, const json_t *v, bool partial, void *out,
		      struct err *e)
{
	switch (f->type) {
	case BODY_BOOL:
		return read_bool(f, v, out, e);
	case BODY_UINT:
		return read_uint(f, v, out, e);
	case BODY_STRING:
		return read_string(f, v, out, e);
	case BODY_ID:
		return read_id(f, v, out, e);
	case BODY_TEXT:
		return read_text(f->name, v, (char *)out + f->offset, f->size, e);
	case BODY_ENUM:
		return read_enum(f, v, out, e);
	case BODY_OBJECT:
		return read_object(f, v, partial, out, e);
	case BODY_LIST:
		return read_list(f, v, out, e);
	case BODY_MAP:
		return read_map(f, v, out, e);
	case BODY_JSON:
		return read_json(f, v, out, e);
	case BODY_ARRAY:
		return json_is_array(v) ? 0 : wrong_type(f, v, "an array", e);
	case BODY_UNSUPPORTED:
		return err_set(e, EINVAL, "field `%s` is not supported", f->name);
	}
	return err_set(e, EINVAL, "field `%s`: bad table", f->name);
}

static const struct body_field *find_field(const struct body *b, const char *name)
{
	for (unsigned i = 0; i < b->count; i++)
		if (strcmp(b->field[i].name, name) == 0)
			return &b->field[i];
	return NULL;
}

static int refuse_unknown(const struct body *b, const json_t *json, struct err *e)
{
	char list[sizeof(e->msg)] = "";
	const char *key;
	json_t *v;
	size_t n = 0;

	json_object_foreach((json_t *)(uintptr_t)json, key, v)
	{
		if (find_field(b, key))
			continue;
		for (unsigned i = 0; i < b->count && n < sizeof(list); i++)
			n += (size_t)snprintf(list + n, sizeof(list) - n, "%s`%s`", i ? ", " : "",
					      b->field[i].name);
		return err_set(e, EINVAL, "unknown field `%.*s`, expected one of %s", ECHO_MAX, key,
			       list);
	}
	return 0;
}

int body_read(const struct body *b, const json_t *json, bool partial, void *out, struct err *e)
{
	int r;

	if (!json_is_object(json))
		return err_set(e, EINVAL, "invalid type: %s, expected an object",
			       json ? type_name(json) : "nothing");
	r = refuse_unknown(b, json, e);
	for (unsigned i = 0; r == 0 && i < b->count; i++) {
		const struct body_field *f = &b->field[i];
		const json_t *v = json_object_get(json, f->name);

		if (v && !json_is_null(v))
			r = read_field(f, v, partial, out, e);
		else if ((f->flags & BODY_REQUIRED) && !partial)
			r = err_set(e, EINVAL, "missing field `%s`", f->name);
	}
	return r;
}

static json_t *print_enum(const struct body_field *f, const void *in)
{
	uint64_t value = load_uint(in, f);

	for (const struct body_name *n = f->names; n->name; n++)
		if (n->value != BODY_REFUSED && (uint64_t)n->value == value)
			return json_string(n->name);
	return json_null();
}

static bool all_zero(const char *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i])
			return false;
	return true;
}

static json_t *print_object(const struct body_field *f, const void *in)
{
	const char *at = (const char *)in + f->offset;

	if (all_zero(at, f->size))
		return json_null();
	if (f->flags & BODY_OWNED)
		at = *(const char *const *)(const void *)at;
	return body_print(f->body, at);
}

static json_t *print_list(const struct body_field *f, const void *in)
{
	const struct vector *list = (const void *)((const char *)in + f->offset);
	json_t *array = json_array();

	for (unsigned i = 0; i < list->count; i++) {
		const char *at = (const char *)list->item + i * f->item;

		json_array_append_new(array, f->body ? body_print(f->body, at) : json_string(at));
	}
	return array;
}

static json_t *print_field(const struct body_field *f, const void *in)
{
	const char *at = (const char *)in + f->offset;
	const char *s;

	switch (f->type) {
	case BODY_BOOL:
		return json_boolean(load_uint(in, f));
	case BODY_UINT:
		/* Below its minimum it stands for an absent one. */
		return load_uint(in, f) < f->min ? json_null()
						 : json_integer((json_int_t)load_uint(in, f));
	case BODY_STRING:
		memcpy(&s, at, sizeof(s));
		return s ? json_string(s) : json_null();
	case BODY_ID:
		return json_string(at);
	case BODY_TEXT:
		return *at ? json_string(at) : json_null();
	case BODY_OBJECT:
		return print_object(f, in);
	case BODY_LIST:
		return print_list(f, in);
	case BODY_ENUM:
		return print_enum(f, in);
	case BODY_MAP:
		memcpy(&s, at, sizeof(s));
		return s ? json_loads(s, 0, NULL) : json_null();
	case BODY_ARRAY:
	case BODY_JSON:
	case BODY_UNSUPPORTED:
		return json_null();
	}
	return NULL;
}

json_t *body_print(const struct body *b, const void *in)
{
	json_t *json = json_object();

	for (unsigned i = 0; i < b->count; i++) {
		const struct body_field *f = &b->field[i];

		if (f->flags & BODY_HIDDEN)
			continue;
		if (json_object_set_new(json, f->name, print_field(f, in)) < 0) {
			json_decref(json);
			return NULL;
		}
	}
	return json;
}
