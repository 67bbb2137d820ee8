#include "ingest/value.h"

#include "core/clock.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char out_of_memory[] = "does not fit into memory";

const char *value_number(struct str text, double *ret)
{
    /* Longer than any double prints; a longer numeric holds no more information. */
    char copy[400];
    if (text.len == 0 || text.len >= sizeof(copy))
        return "is not a number";
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if ((c < '0' || c > '9') && c != '+' && c != '-' && c != '.' && c != 'e' && c != 'E')
            return "is not a finite number"; /* NaN and infinities too */
        copy[i] = c;
    }
    copy[text.len] = '\0';
    char *end = NULL;
    double value = strtod(copy, &end);
    if (end != copy + text.len)
        return "is not a number";
    if (!isfinite(value))
        return "is out of range";
    *ret = value;
    return NULL;
}

/* A fraction's digits as a count of microseconds, unit_us of which make one. */
static int64_t fraction_us(const char *digits, size_t n, int64_t unit_us)
{
    int64_t total = 0;
    for (size_t i = 0; i < n && unit_us >= 10; i++) {
        unit_us /= 10;
        total += (digits[i] - '0') * unit_us;
    }
    return total;
}

/* Decimal numbers are scaled digit by digit: 0.1 s is 100000 us, not the nearest double. */
static const char *epoch_decimal(struct str text, int64_t unit_us, int64_t *ret_us)
{
    size_t i = 0;
    bool negative = text.len > 0 && text.ptr[0] == '-';
    if (negative)
        i++;
    size_t first = i;
    int64_t whole = 0;
    for (; i < text.len && text.ptr[i] >= '0' && text.ptr[i] <= '9'; i++)
        if (__builtin_mul_overflow(whole, 10, &whole) ||
            __builtin_add_overflow(whole, text.ptr[i] - '0', &whole))
            return "is out of range";
    if (i == first)
        return "is not a number";
    int64_t fraction = 0;
    if (i < text.len && text.ptr[i] == '.') {
        size_t start = ++i;
        while (i < text.len && text.ptr[i] >= '0' && text.ptr[i] <= '9')
            i++;
        fraction = fraction_us(text.ptr + start, i - start, unit_us);
    }
    if (i != text.len)
        return "is not a number";
    if (__builtin_mul_overflow(whole, unit_us, &whole) ||
        __builtin_add_overflow(whole, fraction, &whole))
        return "is out of range";
    *ret_us = negative ? -whole : whole;
    return NULL;
}

static const char *epoch_time(struct str text, int64_t unit_us, int64_t *ret_us)
{
    /* double precision prints large values with an exponent. */
    if (!memchr(text.ptr, 'e', text.len) && !memchr(text.ptr, 'E', text.len))
        return epoch_decimal(text, unit_us, ret_us);
    double value = 0;
    const char *why = value_number(text, &value);
    if (why)
        return why;
    value *= (double)unit_us;
    if (value < (double)TIME_MIN_US || value > (double)TIME_MAX_US)
        return "is out of range";
    *ret_us = (int64_t)llround(value);
    return NULL;
}

bool value_zone(struct str text, int32_t *ret_s)
{
    *ret_s = 0;
    if (str_equal(text, STR("UTC")) || str_equal(text, STR("Z")))
        return true;
    if (text.len < 2 || (text.ptr[0] != '+' && text.ptr[0] != '-'))
        return false;
    int digits[4] = {0, 0, 0, 0}; /* hours, minutes */
    size_t n = 0;
    for (size_t i = 1; i < text.len; i++) {
        char c = text.ptr[i];
        if (c == ':' && n == 2 && i == 3 && text.len == 6)
            continue;
        if (c < '0' || c > '9' || n == 4)
            return false;
        digits[n++] = c - '0';
    }
    if (n == 1) {
        digits[1] = digits[0];
        digits[0] = 0;
    }
    int hours = digits[0] * 10 + digits[1];
    int minutes = digits[2] * 10 + digits[3];
    if (n == 3 || hours > 15 || minutes > 59)
        return false;
    *ret_s = (hours * 60 + minutes) * 60 * (text.ptr[0] == '-' ? -1 : 1);
    return true;
}

/* zone_s is NULL when a zone is needed. */
static const char *calendar_time(struct str text, const int32_t *zone_s, int64_t *ret_us)
{
    if (str_equal(text, STR("infinity")) || str_equal(text, STR("-infinity")))
        return "is an infinite time";
    switch (time_parse(text.ptr, text.len, ret_us)) {
    case 0:
        return NULL;
    case -2:
        if (!zone_s)
            return "has no time zone; use timestamptz, or say its zone in the mapping";
        *ret_us -= *zone_s * US_PER_SECOND;
        return NULL;
    default:
        return "is not a time between the years 1 and 9999";
    }
}

static const char *epoch_ns(struct str text, int64_t *ret_us)
{
    int64_t t_ns = 0;
    double value = 0;
    if (!memchr(text.ptr, 'e', text.len) && !memchr(text.ptr, 'E', text.len)) {
        const char *why = epoch_decimal(text, 1, &t_ns);
        *ret_us = t_ns / 1000;
        return why;
    }
    const char *why = value_number(text, &value);
    if (!why && fabs(value) > 0x1p63)
        why = "is out of range";
    if (!why)
        *ret_us = (int64_t)llround(value / 1000);
    return why;
}

const char *value_time(struct str text, enum time_unit unit, int32_t zone_s, int64_t *ret_us)
{
    const char *why = NULL;
    int64_t t_us = 0;
    if (!text.ptr || text.len == 0)
        return "is empty";
    switch (unit) {
    case TIME_TIMESTAMP:
        why = calendar_time(text, NULL, &t_us);
        break;
    case TIME_NAIVE_UTC:
        why = calendar_time(text, &zone_s, &t_us);
        break;
    case TIME_EPOCH_S:
        why = epoch_time(text, US_PER_SECOND, &t_us);
        break;
    case TIME_EPOCH_MS:
        why = epoch_time(text, 1000, &t_us);
        break;
    case TIME_EPOCH_US:
        why = epoch_time(text, 1, &t_us);
        break;
    case TIME_EPOCH_NS:
        why = epoch_ns(text, &t_us);
        break;
    }
    if (why)
        return why;
    if (t_us < TIME_MIN_US || t_us > TIME_MAX_US)
        return "is not a time between the years 1 and 9999";
    *ret_us = t_us;
    return NULL;
}

/* One element between two delimiters, blanks around it allowed. */
static const char *embedding_element(struct str text, float *ret)
{
    while (text.len > 0 && text.ptr[0] == ' ') {
        text.ptr++;
        text.len--;
    }
    while (text.len > 0 && text.ptr[text.len - 1] == ' ')
        text.len--;
    double value = 0;
    if (value_number(text, &value))
        return "has an element that is not a finite number";
    if (fabs(value) > (double)3.4e38F)
        return "has an element that is out of range";
    *ret = (float)value;
    return NULL;
}

const char *value_embedding(struct str text, struct event_arena *arena, const float **ret,
                            uint32_t *ret_dims)
{
    if (text.len < 2 || !((text.ptr[0] == '{' && text.ptr[text.len - 1] == '}') ||
                          (text.ptr[0] == '[' && text.ptr[text.len - 1] == ']')))
        return "is not a list of numbers";
    struct str inner = {text.ptr + 1, text.len - 2};
    size_t dims = inner.len > 0;
    for (size_t i = 0; i < inner.len; i++)
        dims += inner.ptr[i] == ',';
    if (dims > LIMIT_EMBEDDING_DIMS)
        return "has too many dimensions";
    if (dims == 0) {
        *ret = NULL;
        *ret_dims = 0;
        return NULL;
    }
    float *values = event_arena_alloc(arena, dims * sizeof(*values));
    if (!values)
        return out_of_memory;

    const char *at = inner.ptr;
    const char *end = inner.ptr + inner.len;
    for (size_t i = 0; i < dims; i++) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        const char *stop = comma ? comma : end;
        const char *why = embedding_element((struct str){at, (size_t)(stop - at)}, &values[i]);
        if (why)
            return why;
        at = comma ? comma + 1 : end;
    }
    *ret = values;
    *ret_dims = (uint32_t)dims;
    return NULL;
}

const char *value_embedding_json(const json_t *json, struct event_arena *arena, const float **ret,
                                 uint32_t *ret_dims)
{
    if (!json_is_array(json))
        return "is not a list of numbers";
    size_t dims = json_array_size(json);
    if (dims > LIMIT_EMBEDDING_DIMS)
        return "has too many dimensions";
    float *values = dims ? event_arena_alloc(arena, dims * sizeof(*values)) : NULL;
    if (dims && !values)
        return out_of_memory;
    for (size_t i = 0; i < dims; i++) {
        const json_t *element = json_array_get(json, i);
        double value = json_number_value(element);
        if (!json_is_number(element) || fabs(value) > (double)3.4e38F)
            return "has an element that is not a number in range";
        values[i] = (float)value;
    }
    *ret = values;
    *ret_dims = (uint32_t)dims;
    return NULL;
}

static const char *trait(const json_t *json, struct event_arena *arena, struct event_trait *ret)
{
    const json_t *name = json;
    double weight = 1;
    if (json_is_object(json)) {
        name = json_object_get(json, "name");
        const json_t *w = json_object_get(json, "weight");
        if (w && !json_is_null(w)) {
            if (!json_is_number(w))
                return "has a trait whose weight is not a number";
            weight = json_number_value(w);
        }
    }
    if (!json_is_string(name) || json_string_length(name) == 0)
        return "has a trait without a name";
    if (json_string_length(name) > LIMIT_ID_BYTES)
        return "has a trait whose name is too long";
    const char *why = value_json_text(name, arena, LIMIT_ID_BYTES, &ret->name);
    if (why || !str_is_text(ret->name))
        return "has a trait whose name is not valid text";
    ret->weight = weight;
    return NULL;
}

/* The name of a member, copied into the arena. */
static const char *member_name(void *iter, struct event_arena *arena, struct str *ret)
{
    struct str key = {json_object_iter_key(iter), json_object_iter_key_len(iter)};
    if (key.len == 0 || key.len > LIMIT_ID_BYTES || !str_is_text(key))
        return "has a member whose name is no id (1 to 512 bytes of text)";
    char *copy = event_arena_alloc(arena, key.len);
    if (!copy)
        return out_of_memory;
    memcpy(copy, key.ptr, key.len);
    *ret = (struct str){copy, key.len};
    return NULL;
}

static const char *trait_weights(const json_t *json, struct event_arena *arena,
                                 struct event_trait *ret, uint32_t max, uint32_t *ret_n)
{
    /* jansson hands out iterators of mutable objects only. */
    json_t *object = (json_t *)(uintptr_t)json;
    uint32_t n = 0;
    for (void *i = json_object_iter(object); i; i = json_object_iter_next(object, i), n++) {
        if (n >= max)
            continue;
        const char *why = member_name(i, arena, &ret[n].name);
        if (why)
            return why;
        if (!json_is_number(json_object_iter_value(i)))
            return "has a trait whose weight is not a number";
        ret[n].weight = json_number_value(json_object_iter_value(i));
    }
    *ret_n = n;
    return NULL;
}

const char *value_fields(const json_t *json, struct event_arena *arena, struct event_metric *m)
{
    if (!json_is_object(json))
        return "is not an object of numbers";
    json_t *object = (json_t *)(uintptr_t)json;
    for (void *i = json_object_iter(object); i; i = json_object_iter_next(object, i)) {
        const json_t *value = json_object_iter_value(i);
        if (json_is_null(value))
            continue;
        if (!json_is_number(value))
            return "has a member that is not a number";
        if (m->n_fields == sizeof(m->fields) / sizeof(m->fields[0]))
            return "has more fields than are taken (32)";
        const char *why = member_name(i, arena, &m->fields[m->n_fields].name);
        if (why)
            return why;
        m->fields[m->n_fields++].value = json_number_value(value);
    }
    return NULL;
}

const char *value_tags(const json_t *json, struct event_arena *arena, struct event_metric *m)
{
    if (!json_is_object(json))
        return "is not an object of tags";
    json_t *object = (json_t *)(uintptr_t)json;
    for (void *i = json_object_iter(object); i; i = json_object_iter_next(object, i)) {
        const json_t *value = json_object_iter_value(i);
        if (json_is_null(value))
            continue;
        if (m->n_tags == sizeof(m->tags) / sizeof(m->tags[0]))
            return "has more tags than are taken (16)";
        const char *why = member_name(i, arena, &m->tags[m->n_tags].key);
        if (!why)
            why = value_json_text(value, arena, LIMIT_ID_BYTES + 1, &m->tags[m->n_tags].value);
        if (why)
            return why;
        m->n_tags++;
    }
    return NULL;
}

const char *value_traits(const json_t *json, struct event_arena *arena, struct event_trait *ret,
                         uint32_t max, uint32_t *ret_n)
{
    if (json_is_object(json))
        return trait_weights(json, arena, ret, max, ret_n);
    if (!json_is_array(json))
        return "is not a list of traits";
    size_t n = json_array_size(json);
    if (n > UINT32_MAX)
        return "has too many traits";
    for (size_t i = 0; i < n && i < max; i++) {
        const char *why = trait(json_array_get(json, i), arena, &ret[i]);
        if (why)
            return why;
    }
    *ret_n = (uint32_t)n;
    return NULL;
}

json_t *value_json(struct str text)
{
    if (!text.ptr)
        return NULL;
    json_error_t why;
    size_t flags = JSON_DECODE_ANY | JSON_ALLOW_NUL;
    json_t *root = json_loadb(text.ptr, text.len, flags, &why);
    /* One integer beyond 64 bits somewhere in the document must not cost the mapped members. */
    if (!root && json_error_code(&why) == json_error_numeric_overflow)
        root = json_loadb(text.ptr, text.len, flags | JSON_DECODE_INT_AS_REAL, &why);
    return root;
}

const json_t *value_json_path(const json_t *root, const char *path)
{
    const json_t *at = root;
    while (at && *path) {
        size_t len = strcspn(path, ".");
        at = json_is_object(at) ? json_object_getn(at, path, len) : NULL;
        path += len;
        path += *path == '.';
    }
    return at && !json_is_null(at) ? at : NULL;
}

const char *value_json_text(const json_t *json, struct event_arena *arena, size_t max,
                            struct str *ret)
{
    char number[32];
    struct str text = STR_NULL;
    switch (json_typeof(json)) {
    case JSON_STRING:
        text = str_cut((struct str){json_string_value(json), json_string_length(json)}, max);
        break;
    case JSON_INTEGER:
        text.len = (size_t)snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT,
                                    json_integer_value(json));
        text.ptr = number;
        break;
    case JSON_REAL:
        /* Also what became of integers beyond 64 bits: an id read from one would be another id. */
        if (fabs(json_real_value(json)) >= 0x1p53)
            return "is a number too large to be read exactly";
        text.len = (size_t)snprintf(number, sizeof(number), "%.17g", json_real_value(json));
        text.ptr = number;
        break;
    case JSON_TRUE:
        text = STR("true");
        break;
    case JSON_FALSE:
        text = STR("false");
        break;
    case JSON_NULL:
        return "is null";
    case JSON_OBJECT:
    case JSON_ARRAY:
        return "is an object or a list, not a single value";
    }
    char *copy = event_arena_alloc(arena, text.len + 1);
    if (!copy)
        return out_of_memory;
    memcpy(copy, text.ptr, text.len);
    *ret = (struct str){copy, text.len};
    return NULL;
}
