#include "core/cleanup.h"
#include "core/clock.h"
#include "core/event.h"
#include "core/event_names.h"

#include <assert.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* One line being read. The first failure sticks, so that members can be read without a branch each;
 * what is read after it is not used. */
struct in {
    const json_t *root;
    struct event_arena *arena;
    struct error *err;
    enum status st;
};

static void fail(struct in *in, const char *path, const char *fmt, ...) PRINTF_LIKE(3, 4);

static void fail(struct in *in, const char *path, const char *fmt, ...)
{
    char text[256];
    va_list args;
    if (in->st)
        return;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    in->st = error_set(in->err, STATUS_INVALID, "%s: %s", path, text);
}

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "unknown";
}

static void fail_type(struct in *in, const char *path, const char *wanted, const json_t *value)
{
    fail(in, path, "must be %s, not %s", wanted, type_name(value));
}

/* A member of the line, or NULL when it is absent or null. */
static const json_t *member(struct in *in, const char *key)
{
    const json_t *value = json_object_get(in->root, key);
    return json_is_null(value) ? NULL : value;
}

static void *allocate(struct in *in, size_t size)
{
    void *p = event_arena_alloc(in->arena, size);
    if (!p && !in->st)
        in->st =
            error_set(in->err, STATUS_NOMEM, "could not allocate %zu bytes for an event", size);
    return p;
}

static struct str copy(struct in *in, const char *bytes, size_t len)
{
    if (len == 0)
        return STR("");
    char *p = allocate(in, len);
    if (!p)
        return STR_NULL;
    memcpy(p, bytes, len);
    return (struct str){p, len};
}

static struct str string_of(struct in *in, const char *path, const json_t *value)
{
    if (!value)
        return STR_NULL;
    if (!json_is_string(value)) {
        fail_type(in, path, "a string", value);
        return STR_NULL;
    }
    return copy(in, json_string_value(value), json_string_length(value));
}

static double number_of(struct in *in, const char *path, const json_t *value)
{
    if (!value)
        return NAN;
    if (!json_is_number(value))
        fail_type(in, path, "a number", value);
    return json_number_value(value);
}

static struct str get_string(struct in *in, const char *key)
{
    return string_of(in, key, member(in, key));
}

static double get_number(struct in *in, const char *key)
{
    return number_of(in, key, member(in, key));
}

static int64_t get_int(struct in *in, const char *key, int64_t absent)
{
    const json_t *value = member(in, key);
    if (!value)
        return absent;
    if (!json_is_integer(value))
        fail_type(in, key, "an integer", value);
    return json_integer_value(value);
}

/* A container of the given type, or NULL when absent or wrong. */
static const json_t *get_container(struct in *in, const char *key, json_type type)
{
    const json_t *value = member(in, key);
    if (value && json_typeof(value) != type) {
        fail_type(in, key, type == JSON_OBJECT ? "an object" : "an array", value);
        return NULL;
    }
    return value;
}

/* Compares lengths too: the string may hold a NUL. */
static bool is_word(const json_t *value, const char *word)
{
    struct str s = {json_string_value(value), json_string_length(value)};
    return str_equal(s, str_from(word));
}

/* The index of the word in words; absent says what no member means, negative = it is required. */
static int get_word(struct in *in, const char *key, const struct event_words *words, int absent)
{
    const json_t *value = member(in, key);
    if (!value) {
        if (absent < 0)
            fail(in, key, "missing");
        return absent;
    }
    if (!json_is_string(value)) {
        fail_type(in, key, "a string", value);
        return absent;
    }
    for (int i = 0; i < words->count; i++)
        if (words->words[i] && is_word(value, words->words[i]))
            return i;
    fail(in, key, "unknown value \"%.64s\"", json_string_value(value));
    return absent;
}

static int64_t get_time(struct in *in, const char *key)
{
    const json_t *value = member(in, key);
    int64_t t_us = 0;
    if (!value) {
        fail(in, key, "missing");
        return 0;
    }
    if (json_is_integer(value))
        return json_integer_value(value);
    if (!json_is_string(value)) {
        fail_type(in, key, "RFC 3339 text or integer microseconds", value);
        return 0;
    }
    int got = time_parse(json_string_value(value), json_string_length(value), &t_us);
    if (got == -2)
        fail(in, key, "\"%.64s\" has no zone", json_string_value(value));
    else if (got)
        fail(in, key, "\"%.64s\" is not an RFC 3339 time", json_string_value(value));
    return t_us;
}

static struct str get_bot(struct in *in, const char *key)
{
    const json_t *value = member(in, key);
    char normal[LIMIT_ID_BYTES];
    if (!value)
        return STR_NULL;
    if (!json_is_string(value)) {
        fail_type(in, key, "a string", value);
        return STR_NULL;
    }
    struct str raw = {json_string_value(value), json_string_length(value)};
    if (raw.len > LIMIT_ID_BYTES) {
        fail(in, key, "%zu bytes, at most %d are taken", raw.len, LIMIT_ID_BYTES);
        return STR_NULL;
    }
    size_t n = event_bot_name(raw, normal);
    if (n == 0 && raw.len > 0)
        fail(in, key, "\"%.64s\" holds none of a-z and 0-9", raw.ptr);
    return copy(in, normal, n);
}

static void read_traits(struct in *in, struct event_message *m)
{
    const json_t *traits = get_container(in, "traits", JSON_ARRAY);
    size_t n = json_array_size(traits);
    for (size_t i = 0; i < n && !in->st; i++) {
        const json_t *trait = json_array_get(traits, i);
        char path[64];
        (void)snprintf(path, sizeof(path), "traits[%zu]", i);
        if (!json_is_object(trait)) {
            fail_type(in, path, "an object", trait);
            return;
        }
        (void)snprintf(path, sizeof(path), "traits[%zu].name", i);
        const json_t *name_value = json_object_get(trait, "name");
        if (!name_value)
            fail(in, path, "missing");
        struct str name = string_of(in, path, name_value);
        (void)snprintf(path, sizeof(path), "traits[%zu].weight", i);
        const json_t *weight_value = json_object_get(trait, "weight");
        double weight = json_is_null(weight_value) ? NAN : number_of(in, path, weight_value);
        if (i < LIMIT_TRAITS)
            m->traits[i] = (struct event_trait){name, isnan(weight) ? 1 : weight};
    }
    int64_t count = get_int(in, "trait_count", (int64_t)n);
    if (count < (int64_t)n || count > UINT32_MAX || (count > (int64_t)n && n < LIMIT_TRAITS))
        fail(in, "trait_count", "does not fit %zu traits", n);
    m->n_traits = (uint32_t)count;
}

static void read_embedding(struct in *in, struct event_message *m)
{
    const json_t *values = get_container(in, "embedding", JSON_ARRAY);
    size_t n = json_array_size(values);
    if (n > LIMIT_EMBEDDING_DIMS)
        fail(in, "embedding", "%zu numbers, at most %d are taken", n, LIMIT_EMBEDDING_DIMS);
    if (n == 0 || in->st)
        return;
    float *out = allocate(in, n * sizeof(*out));
    for (size_t i = 0; i < n && !in->st; i++) {
        char path[64];
        (void)snprintf(path, sizeof(path), "embedding[%zu]", i);
        double v = number_of(in, path, json_array_get(values, i));
        /* Casting what a float cannot hold is undefined; event_check() refuses the infinity. */
        out[i] = fabs(v) <= (double)3.4028234663852886e38F ? (float)v : INFINITY;
    }
    m->embedding = out;
    m->embedding_dims = (uint32_t)n;
}

static void read_message(struct in *in, struct event_message *m, enum message_op op)
{
    *m = (struct event_message){
        .role = (enum message_role)get_word(in, "role", &words_role, -1),
        .op = op,
        .content = get_string(in, "content"),
        .emotion = get_string(in, "emotion"),
        .emotion_confidence = get_number(in, "emotion_confidence"),
        .embedding_model = get_string(in, "embedding_model"),
        .channel_id = get_string(in, "channel_id"),
    };
    read_traits(in, m);
    read_embedding(in, m);
}

static void read_memory(struct in *in, struct event_memory *m)
{
    int64_t grade = get_int(in, "grade", 0);
    if (member(in, "grade") && (grade < 1 || grade > 4))
        fail(in, "grade", "%lld is not within 1..4", (long long)grade);
    *m = (struct event_memory){
        .op = (enum memory_op)get_word(in, "op", &words_memory_op, -1),
        .memory_id = get_string(in, "memory_id"),
        .score = get_number(in, "score"),
        .grade = (int)grade,
        .outcome = (enum memory_outcome)get_word(in, "outcome", &words_outcome, OUTCOME_NONE),
        .importance = get_number(in, "importance"),
        .memory_type = get_string(in, "memory_type"),
        .content = get_string(in, "content"),
    };
}

/* An object of names to values: counts its members, which may be at most max. */
static size_t count_members(struct in *in, const char *key, const json_t *object, size_t max)
{
    size_t n = json_object_size(object);
    if (n > max)
        fail(in, key, "%zu members, at most %zu are taken", n, max);
    return in->st ? 0 : n;
}

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static void read_metric(struct in *in, struct event_metric *m)
{
    m->measurement = get_string(in, "measurement");
    const json_t *fields = get_container(in, "fields", JSON_OBJECT);
    const json_t *tags = get_container(in, "tags", JSON_OBJECT);
    m->n_fields = (uint32_t)count_members(in, "fields", fields, COUNT_OF(m->fields));
    m->n_tags = (uint32_t)count_members(in, "tags", tags, COUNT_OF(m->tags));
    if (!fields)
        fail(in, "fields", "missing");
    char path[128];
    /* jansson iterates over a const object only by way of a pointer that could change it. */
    void *at = m->n_fields ? json_object_iter((json_t *)(uintptr_t)fields) : NULL;
    for (size_t i = 0; at && !in->st; i++) {
        const char *name = json_object_iter_key(at);
        (void)snprintf(path, sizeof(path), "fields.%.100s", name);
        m->fields[i].name = copy(in, name, json_object_iter_key_len(at));
        m->fields[i].value = number_of(in, path, json_object_iter_value(at));
        at = json_object_iter_next((json_t *)(uintptr_t)fields, at);
    }
    at = m->n_tags ? json_object_iter((json_t *)(uintptr_t)tags) : NULL;
    for (size_t i = 0; at && !in->st; i++) {
        const char *name = json_object_iter_key(at);
        (void)snprintf(path, sizeof(path), "tags.%.100s", name);
        m->tags[i].key = copy(in, name, json_object_iter_key_len(at));
        m->tags[i].value = string_of(in, path, json_object_iter_value(at));
        at = json_object_iter_next((json_t *)(uintptr_t)tags, at);
    }
}

static void read_character(struct in *in, struct event_character *c)
{
    c->version = get_int(in, "version", 0);
    if (!member(in, "version"))
        fail(in, "version", "missing");
    const json_t *traits = get_container(in, "traits", JSON_OBJECT);
    c->n_traits = (uint32_t)count_members(in, "traits", traits, COUNT_OF(c->traits));
    void *at = c->n_traits ? json_object_iter((json_t *)(uintptr_t)traits) : NULL;
    for (size_t i = 0; at && !in->st; i++) {
        const char *name = json_object_iter_key(at);
        char path[128];
        (void)snprintf(path, sizeof(path), "traits.%.100s", name);
        c->traits[i].name = copy(in, name, json_object_iter_key_len(at));
        c->traits[i].weight = number_of(in, path, json_object_iter_value(at));
        at = json_object_iter_next((json_t *)(uintptr_t)traits, at);
    }
}

static void read_dead_letter(struct in *in, struct event_dead_letter *d)
{
    d->where = get_string(in, "where");
    d->reason = get_string(in, "reason");
    d->bytes = get_string(in, "bytes");
    struct str text = get_string(in, "bytes_base64");
    if (!text.ptr || in->st)
        return;
    unsigned char *out = allocate(in, text.len + 1);
    if (!out)
        return;
    long n = base64_decode(text.ptr, text.len, out);
    if (n < 0)
        fail(in, "bytes_base64", "is not base64");
    d->bytes = (struct str){(const char *)out, n < 0 ? 0 : (size_t)n};
}

static const struct {
    const char *name;
    enum event_type type;
    enum message_op op;
} type_names[] = {
    {"message", EVENT_MESSAGE, MESSAGE_INSERT},
    {"message_updated", EVENT_MESSAGE, MESSAGE_UPDATE},
    {"message_deleted", EVENT_MESSAGE_DELETED, 0},
    {"memory", EVENT_MEMORY, 0},
    {"metric", EVENT_METRIC, 0},
    {"outreach", EVENT_OUTREACH, 0},
    {"character", EVENT_CHARACTER, 0},
    {"privacy", EVENT_PRIVACY, 0},
    {"dead_letter", EVENT_DEAD_LETTER, 0},
    {"request", EVENT_REQUEST, 0},
};

const char *event_type_name(enum event_type type)
{
    for (size_t i = 0; i < sizeof(type_names) / sizeof(type_names[0]); i++)
        if (type_names[i].type == type)
            return type_names[i].name;
    return "none";
}

static void read_body(struct in *in, struct event *e, enum message_op op)
{
    switch (e->type) {
    case EVENT_MESSAGE:
        read_message(in, &e->u.message, op);
        break;
    case EVENT_MESSAGE_DELETED:
        break;
    case EVENT_MEMORY:
        read_memory(in, &e->u.memory);
        break;
    case EVENT_METRIC:
        read_metric(in, &e->u.metric);
        break;
    case EVENT_OUTREACH:
        e->u.outreach.op = (enum outreach_op)get_word(in, "op", &words_outreach_op, -1);
        e->u.outreach.topic = get_string(in, "topic");
        break;
    case EVENT_CHARACTER:
        read_character(in, &e->u.character);
        break;
    case EVENT_PRIVACY:
        e->u.privacy.op = (enum privacy_op)get_word(in, "op", &words_privacy_op, -1);
        e->u.privacy.scope = get_string(in, "scope");
        break;
    case EVENT_DEAD_LETTER:
        read_dead_letter(in, &e->u.dead_letter);
        break;
    case EVENT_REQUEST:
        e->u.request.op = (enum request_op)get_word(in, "op", &words_request_op, -1);
        e->u.request.reason = get_string(in, "reason");
        break;
    }
}

static void read_event(struct in *in, struct event *e)
{
    const json_t *type = member(in, "type");
    if (!type)
        fail(in, "type", "missing");
    else if (!json_is_string(type))
        fail_type(in, "type", "a string", type);
    if (in->st)
        return;
    size_t i = 0;
    while (i < COUNT_OF(type_names) && !is_word(type, type_names[i].name))
        i++;
    if (i == COUNT_OF(type_names)) {
        fail(in, "type", "unknown value \"%.64s\"", json_string_value(type));
        return;
    }
    e->type = type_names[i].type;
    e->id = get_string(in, "id");
    e->user_id = get_string(in, "user_id");
    e->bot_name = get_bot(in, "bot_name");
    e->at_us = get_time(in, "at");
    read_body(in, e, type_names[i].op);
}

static void json_freep(json_t **slot)
{
    json_decref(*slot);
}

enum status event_from_json(struct str line, struct event_arena *arena, struct event *ret,
                            struct error *err)
{
    if (line.len > LIMIT_EVENT_BYTES)
        return error_set(err, STATUS_INVALID, "json: %zu bytes, at most %u are taken", line.len,
                         LIMIT_EVENT_BYTES);
    json_error_t problem;
    /* JSON_ALLOW_NUL: the check of the strings says which member holds it. */
    CLEANUP(json_freep)
    json_t *root = json_loadb(line.len ? line.ptr : "", line.len,
                              JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &problem);
    if (!root)
        return error_set(err, STATUS_INVALID, "json: byte %d: %s", problem.position, problem.text);
    struct in in = {.root = root, .arena = arena, .err = err};
    if (json_is_object(root))
        read_event(&in, ret);
    else
        fail_type(&in, "json", "an object", root);
    return in.st ? in.st : event_check(ret, err);
}
