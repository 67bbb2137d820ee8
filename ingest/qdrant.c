#include "ingest/qdrant.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/hash.h"
#include "ingest/value.h"

#define KNOWN_VERSION 1
#define HASH_IGNORED  1 /* of a point that stands for nothing */

/* ---- an answer ---- */

static bool is_number_byte(char c)
{
    return (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
}

/*
 * jansson refuses a document with an integer beyond 64 bits with a sign, and ids have none. So long
 * integers become strings, which is what ids are wanted as anyway.
 */
static enum status quote_long_integers(struct str body, struct buf *out)
{
    const size_t longest = 18; /* digits that always fit */
    enum status st = STATUS_OK;
    size_t copied = 0;
    bool in_string = false;
    for (size_t i = 0; i < body.len && !st;) {
        char c = body.ptr[i];
        if (in_string) {
            i += c == '\\' ? 2 : 1;
            in_string = c != '"';
            continue;
        }
        if (c == '"' || !is_number_byte(c)) {
            in_string = c == '"';
            i++;
            continue;
        }
        size_t end = i, digits = 0;
        while (end < body.len && is_number_byte(body.ptr[end])) {
            digits += body.ptr[end] >= '0' && body.ptr[end] <= '9';
            end++;
        }
        if (digits == end - i && digits > longest) {
            st = buf_append(out, body.ptr + copied, i - copied);
            st = st ? st : buf_printf(out, "\"%.*s\"", (int)(end - i), body.ptr + i);
            copied = end;
        }
        i = end;
    }
    return st ? st : buf_append(out, body.ptr + copied, body.len - copied);
}

/* A point id: false when it is none. */
static bool read_id(const json_t *json, char out[QDRANT_ID_BYTES])
{
    int n = -1;
    if (json_is_integer(json) && json_integer_value(json) >= 0)
        n = snprintf(out, QDRANT_ID_BYTES, "%" JSON_INTEGER_FORMAT, json_integer_value(json));
    else if (json_is_string(json) && json_string_length(json) < QDRANT_ID_BYTES)
        n = snprintf(out, QDRANT_ID_BYTES, "%s", json_string_value(json));
    for (int i = 0; i < n; i++) {
        char c = out[i];
        bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
        if (!hex && c != '-')
            return false;
    }
    /* Digits alone are a number, which has no zeros in front. */
    return n > 0 && (n == 1 || out[0] != '0' || out[strspn(out, "0123456789")]);
}

enum status qdrant_page_read(struct str body, struct qdrant_page *ret, struct error *err)
{
    struct buf text;
    buf_init(&text, 2 * body.len + 16);
    enum status st = quote_long_integers(body, &text);
    if (st) {
        buf_deinit(&text);
        return error_set(err, STATUS_NOMEM, "could not allocate an answer of %zu bytes", body.len);
    }
    json_error_t why;
    json_t *root = json_loadb(text.data ? text.data : "", text.len, JSON_ALLOW_NUL, &why);
    buf_deinit(&text);
    if (!root)
        /* What jansson says of it may quote a memory. */
        return error_set(err, STATUS_PROTOCOL, "the answer is not JSON (line %d, byte %d)",
                         why.line, why.position);
    const json_t *points = value_json_path(root, "result.points");
    const json_t *next = value_json_path(root, "result.next_page_offset");
    struct qdrant_page page = {.root = root, .points = points, .n = json_array_size(points)};
    if (!json_is_array(points) || (next && !read_id(next, page.next))) {
        json_decref(root);
        return error_set(err, STATUS_PROTOCOL,
                         "the answer is not that of a scroll: result.points must be a list and "
                         "result.next_page_offset a point id or null");
    }
    *ret = page;
    return STATUS_OK;
}

void qdrant_page_deinit(struct qdrant_page *page)
{
    json_decref(page->root);
    *page = (struct qdrant_page){0};
}

enum status qdrant_page_point(const struct qdrant_page *page, size_t i, struct qdrant_point *ret,
                              struct error *err)
{
    assert(i < page->n);
    const json_t *json = json_array_get(page->points, i);
    *ret = (struct qdrant_point){.has_order = false};
    if (!json_is_object(json) || !read_id(json_object_get(json, "id"), ret->id))
        return error_set(err, STATUS_PROTOCOL,
                         "result.points[%zu] has no id that is a number or a UUID", i);
    const json_t *payload = json_object_get(json, "payload");
    ret->payload = json_is_object(payload) ? payload : NULL;
    const json_t *order = json_object_get(json, "order_value");
    if (!json_is_number(order))
        order = ret->payload ? json_object_get(ret->payload, QDRANT_TIME_KEY) : NULL;
    ret->has_order = json_is_number(order);
    ret->order = ret->has_order ? json_number_value(order) : 0;
    return STATUS_OK;
}

/* ---- what is remembered of a point ---- */

enum status qdrant_known_encode(const struct qdrant_known *k, struct buf *out)
{
    enum status st = buf_put_u8(out, KNOWN_VERSION);
    st = st ? st : buf_put_u64(out, k->hash);
    st = st ? st : buf_put_svarint(out, k->accesses);
    st = st ? st : buf_put_varint(out, k->kinds);
    st = st ? st : buf_put_bytes(out, k->user_id);
    st = st ? st : buf_put_bytes(out, k->bot_name);
    return st ? st : buf_put_bytes(out, k->message_id);
}

enum status qdrant_known_decode(struct str bytes, struct qdrant_known *ret, struct error *err)
{
    struct reader r = reader_of(bytes.ptr, bytes.len);
    uint8_t version = reader_u8(&r);
    struct qdrant_known k = {.hash = reader_u64(&r), .accesses = reader_svarint(&r)};
    k.kinds = (unsigned)reader_varint(&r);
    k.user_id = reader_blob(&r);
    k.bot_name = reader_blob(&r);
    k.message_id = reader_blob(&r);
    if (r.bad || version != KNOWN_VERSION || reader_left(&r) > 0)
        return error_set(err, STATUS_CORRUPT, "what is remembered of a point cannot be read");
    *ret = k;
    return STATUS_OK;
}

/* ---- values of a payload ---- */

/* A point on its way to events. The first failure sticks. */
struct in {
    const struct qdrant_rules *rules;
    const struct qdrant_point *point;
    struct event_arena *arena;
    struct error why; /* code: INVALID, or NOMEM */
};

static const json_t *member(const struct in *in, const char *path)
{
    return value_json_path(in->point->payload, path);
}

/* The first of the paths that has a value; paths end with NULL. */
static const json_t *first_member(const struct in *in, const char *const *paths, const char **ret)
{
    for (; *paths; paths++) {
        const json_t *value = member(in, *paths);
        if (value) {
            *ret = *paths;
            return value;
        }
    }
    return NULL;
}

static struct str text_at(struct in *in, const char *const *paths, size_t max)
{
    const char *path = NULL;
    struct str text = STR_NULL;
    const json_t *value = first_member(in, paths, &path);
    const char *why = value ? value_json_text(value, in->arena, max, &text) : NULL;
    if (why && !in->why.code)
        (void)error_set(&in->why, STATUS_INVALID, "%s: %s", path, why);
    return text;
}
#define TEXT(in, max, ...) text_at((in), (const char *const[]){__VA_ARGS__, NULL}, (max))

/* What is not text is not given: it only adorns the point. */
static struct str word_at(const struct in *in, const char *const *paths)
{
    for (; *paths; paths++) {
        const json_t *value = member(in, *paths);
        if (json_is_string(value) && json_string_length(value) > 0)
            return (struct str){json_string_value(value), json_string_length(value)};
    }
    return STR_NULL;
}
#define WORD(in, ...) word_at((in), (const char *const[]){__VA_ARGS__, NULL})

/* A share of 1; what is none of that scale is not given. */
static double share_at(const struct in *in, const char *const *paths)
{
    const char *path = NULL;
    const json_t *value = first_member(in, paths, &path);
    double share = json_is_number(value) ? json_number_value(value) : NAN;
    return share >= 0 && share <= 1 ? share : NAN;
}
#define SHARE(in, ...) share_at((in), (const char *const[]){__VA_ARGS__, NULL})

static bool is_true(const json_t *value)
{
    return json_is_true(value) || (json_is_number(value) && json_number_value(value) > 0);
}

static const char *read_time(struct in *in, const json_t *value, int64_t *ret_us)
{
    struct str text = STR_NULL;
    if (json_is_boolean(value))
        return "is not a time";
    const char *why = value_json_text(value, in->arena, 64, &text);
    if (why)
        return why;
    if (value_time(text, TIME_EPOCH_S, 0, ret_us) == NULL)
        return *ret_us >= TIME_MIN_US && *ret_us <= TIME_MAX_US
                   ? NULL
                   : "is out of range: seconds since 1970 are wanted";
    if (!json_is_string(value))
        return "is out of range: seconds since 1970 are wanted";
    /* Without a zone it is UTC, as the memories of WhisperEngine are written. */
    return value_time(text, TIME_NAIVE_UTC, 0, ret_us);
}

/* False: none of the paths has one. */
static bool time_at(struct in *in, const char *const *paths, int64_t *ret_us)
{
    const char *path = NULL;
    const json_t *value = first_member(in, paths, &path);
    const char *why = value ? read_time(in, value, ret_us) : NULL;
    if (why && !in->why.code)
        (void)error_set(&in->why, STATUS_INVALID, "%s: %s", path, why);
    return value != NULL;
}
#define TIME(in, ret, ...) time_at((in), (const char *const[]){__VA_ARGS__, NULL}, (ret))

static struct str bot_of(struct in *in)
{
    struct str raw = in->rules->bot_name;
    if (raw.len == 0)
        raw = TEXT(in, LIMIT_ID_BYTES, "bot_name", "bot");
    if (raw.len == 0)
        raw = in->rules->collection;
    char *name = event_arena_alloc(in->arena, LIMIT_ID_BYTES);
    if (!name) {
        (void)error_set(&in->why, STATUS_NOMEM, "could not allocate a bot's name");
        return STR("");
    }
    return (struct str){name, event_bot_name(raw, name)};
}

static bool is_any(struct str text, const char *const *words)
{
    for (; *words; words++)
        if (str_equal(text, str_from(*words)))
            return true;
    return false;
}

/* 0: not a message. */
static enum message_role role_of(struct str role)
{
    static const char *const user[] = {"user", "human", NULL};
    static const char *const bot[] = {"assistant", "bot", "ai", NULL};
    return is_any(role, user) ? ROLE_USER : is_any(role, bot) ? ROLE_BOT : 0;
}

/* ---- events ---- */

static struct event memory_event(const struct in *in, const struct qdrant_known *k, int64_t at_us,
                                 enum memory_op op)
{
    struct str id = str_from(in->point->id);
    struct event e = {.type = EVENT_MEMORY,
                      .id = id,
                      .user_id = k->user_id,
                      .bot_name = k->bot_name,
                      .at_us = at_us};
    e.u.memory = (struct event_memory){.op = op, .memory_id = id, .score = NAN, .importance = NAN};
    return e;
}

static struct event message_event(struct in *in, const struct qdrant_known *k, int64_t at_us,
                                  enum message_role role, struct str content)
{
    struct event e = {.type = EVENT_MESSAGE,
                      .id = k->message_id,
                      .user_id = k->user_id,
                      .bot_name = k->bot_name,
                      .at_us = at_us};
    e.u.message = (struct event_message){
        .role = role,
        .op = MESSAGE_INSERT,
        .content = content,
        .emotion = WORD(in, "emotion_data.primary_emotion", "primary_emotion",
                        "pre_analyzed_primary_emotion", "emotional_context"),
        .emotion_confidence = SHARE(in, "emotion_data.confidence", "roberta_confidence"),
        .channel_id = TEXT(in, LIMIT_ID_BYTES, "channel_id"),
    };
    return e;
}

/* With a time but no count, each time that is read is one access. */
static void add_uncounted_access(struct in *in, struct qdrant_events *ret, int64_t at_us)
{
    char *id = event_arena_alloc(in->arena, QDRANT_ID_BYTES + 32);
    if (!id) {
        (void)error_set(&in->why, STATUS_NOMEM, "could not allocate an id");
        return;
    }
    struct event e = memory_event(in, &ret->known, at_us, MEMORY_ACCESS);
    e.id.len = (size_t)snprintf(id, QDRANT_ID_BYTES + 32, "%s@%" PRId64, in->point->id, at_us);
    e.id.ptr = id;
    e.u.memory.score = SHARE(in, "retrieval_score");
    ret->events[ret->n++] = e;
}

/* All that the point is now, but the counted accesses, as if it had never been seen. */
static void read_events(struct in *in, struct qdrant_events *ret)
{
    static const char *const nothing[] = {"conversation_pair", "system", "tool", NULL};
    struct str role = TEXT(in, LIMIT_ID_BYTES, "role");
    struct str type = TEXT(in, LIMIT_ID_BYTES + 1, "memory_type");
    ret->ignored = is_any(role, nothing) || str_equal(type, str_from(nothing[0]));
    if (ret->ignored)
        return;
    struct qdrant_known *k = &ret->known;
    int64_t at_us = 0, accessed_us = 0;
    k->user_id = TEXT(in, LIMIT_ID_BYTES + 1, "user_id");
    k->bot_name = bot_of(in);
    if (!TIME(in, &at_us, QDRANT_TIME_KEY, "timestamp") && !in->why.code)
        (void)error_set(&in->why, STATUS_INVALID,
                        "neither " QDRANT_TIME_KEY " nor timestamp has a value");
    struct str content = TEXT(in, LIMIT_TEXT_BYTES + 1, "content");

    struct event e = memory_event(in, k, at_us, MEMORY_CREATE);
    e.u.memory.importance = SHARE(in, "overall_significance");
    e.u.memory.memory_type = type;
    e.u.memory.content = content;
    ret->events[ret->n++] = e;
    k->kinds = QDRANT_IS_MEMORY;
    if (is_true(member(in, "decay_protection")))
        ret->events[ret->n++] = memory_event(in, k, at_us, MEMORY_PIN);
    enum message_role who = role_of(role);
    if (who) {
        k->message_id = TEXT(in, LIMIT_ID_BYTES + 1, "message_id", "id");
        if (k->message_id.len == 0)
            k->message_id = str_from(in->point->id);
        k->kinds |= QDRANT_IS_MESSAGE;
        ret->events[ret->n++] = message_event(in, k, at_us, who, content.ptr ? content : STR(""));
    }
    if (!member(in, "access_count") &&
        TIME(in, &accessed_us, "last_accessed_unix", "last_accessed") && !in->why.code)
        add_uncounted_access(in, ret, accessed_us);
    enum status st = in->why.code;
    for (size_t i = 0; i < ret->n && !st; i++)
        st = event_check(&ret->events[i], &in->why);
}

/* Accesses m + 1 to n of the counter, at the time of the last one. */
static void add_counted_accesses(struct in *in, struct qdrant_events *ret, int64_t was)
{
    const json_t *count = member(in, "access_count");
    int64_t n = json_is_number(count) && json_number_value(count) < 0x1p53
                    ? (int64_t)json_number_value(count)
                    : -1;
    int64_t at_us = 0;
    ret->known.accesses = was;
    /* Until it is known when, they stay to be counted. */
    if (n < 0 || !TIME(in, &at_us, "last_accessed_unix", "last_accessed") || in->why.code)
        return;
    ret->known.accesses = n;
    if (n > was && n - was > QDRANT_ACCESSES_MAX)
        was = n - QDRANT_ACCESSES_MAX;
    for (int64_t i = was + 1; i <= n; i++) {
        char *id = event_arena_alloc(in->arena, QDRANT_ID_BYTES + 24);
        if (!id) {
            (void)error_set(&in->why, STATUS_NOMEM, "could not allocate an id");
            return;
        }
        struct event e = memory_event(in, &ret->known, at_us, MEMORY_ACCESS);
        e.id.len = (size_t)snprintf(id, QDRANT_ID_BYTES + 24, "%s#%" PRId64, in->point->id, i);
        e.id.ptr = id;
        e.u.memory.score = SHARE(in, "retrieval_score");
        ret->events[ret->n++] = e;
    }
}

static enum status hash_events(const struct qdrant_events *e, struct buf *scratch, uint64_t *ret,
                               struct error *err)
{
    buf_reset(scratch);
    for (size_t i = 0; i < e->n; i++) {
        enum status st = event_encode(&e->events[i], scratch, err);
        if (st)
            return st;
    }
    *ret = hash64((struct str){scratch->data, scratch->len});
    return STATUS_OK;
}

static struct str copy(struct event_arena *arena, const char *bytes, size_t len)
{
    char *p = event_arena_alloc(arena, len + 1);
    if (!p)
        return STR_NULL;
    memcpy(p, bytes, len);
    p[len] = '\0';
    return (struct str){p, len};
}

/* The point cannot be used: one event says so, and what it was before stays. */
static enum status dead_letter(struct in *in, const struct qdrant_known *was,
                               struct qdrant_events *ret, struct error *err)
{
    char where[128], id[128];
    char *dump = in->point->payload ? json_dumps(in->point->payload, JSON_COMPACT | JSON_SORT_KEYS)
                                    : strdup("null");
    if (!dump)
        return error_set(err, STATUS_NOMEM, "could not allocate a dead letter");
    uint64_t hash = hash64_mix(hash64(str_from(dump)) + hash64(str_from(in->why.text)));
    snprintf(where, sizeof(where), "qdrant:%s", in->rules->name);
    snprintf(id, sizeof(id), "%s/%016" PRIx64, in->point->id, hash);
    struct str bytes = str_cut(str_from(dump), LIMIT_DEAD_LETTER_BYTES);
    struct event e = {.type = EVENT_DEAD_LETTER,
                      .id = copy(in->arena, id, strlen(id)),
                      .user_id = STR(""),
                      .bot_name = STR(""),
                      .at_us = in->rules->now_us};
    e.u.dead_letter = (struct event_dead_letter){
        .where = copy(in->arena, where, strlen(where)),
        .reason = copy(in->arena, in->why.text, strlen(in->why.text)),
        .bytes = copy(in->arena, bytes.ptr, bytes.len),
    };
    free(dump);
    if (!e.id.ptr || !e.u.dead_letter.where.ptr || !e.u.dead_letter.reason.ptr ||
        !e.u.dead_letter.bytes.ptr)
        return error_set(err, STATUS_NOMEM, "could not allocate a dead letter");
    ret->ignored = false;
    ret->known = was ? *was : (struct qdrant_known){.kinds = 0};
    ret->known.hash = hash ? hash : HASH_IGNORED + 1;
    ret->changed = !was || was->hash != ret->known.hash;
    ret->n = 0;
    if (ret->changed)
        ret->events[ret->n++] = e;
    return STATUS_OK;
}

static bool same_key(const struct qdrant_known *a, const struct qdrant_known *b)
{
    return str_equal(a->user_id, b->user_id) && str_equal(a->bot_name, b->bot_name);
}

/* Deletions of what the point was and is no longer, returns how many; now NULL: it is nothing any
 * more. */
static size_t get_deletions(const struct qdrant_rules *rules, struct str id,
                            const struct qdrant_known *was, const struct qdrant_known *now,
                            struct event out[2])
{
    size_t n = 0;
    bool moved = !now || !same_key(was, now);
    unsigned kinds = now ? now->kinds : 0;
    struct event e = {.user_id = was->user_id, .bot_name = was->bot_name, .at_us = rules->now_us};
    if ((was->kinds & QDRANT_IS_MEMORY) && (moved || !(kinds & QDRANT_IS_MEMORY))) {
        e.type = EVENT_MEMORY;
        e.id = id;
        e.u.memory = (struct event_memory){
            .op = MEMORY_DELETE, .memory_id = id, .score = NAN, .importance = NAN};
        out[n++] = e;
    }
    if ((was->kinds & QDRANT_IS_MESSAGE) &&
        (moved || !(kinds & QDRANT_IS_MESSAGE) || !str_equal(was->message_id, now->message_id))) {
        e.type = EVENT_MESSAGE_DELETED;
        e.id = was->message_id;
        out[n++] = e;
    }
    return n;
}

void qdrant_gone_events(const struct qdrant_rules *rules, struct str id,
                        const struct qdrant_known *was, struct qdrant_events *ret)
{
    ret->changed = true;
    ret->ignored = false;
    ret->n = get_deletions(rules, id, was, NULL, ret->events);
}

/* Deletions come first: what a point was under another key or id goes before what it is now. */
static void put_first(const struct event *deletions, size_t n, struct qdrant_events *ret)
{
    assert(ret->n + n <= QDRANT_EVENTS_MAX);
    memmove(ret->events + n, ret->events, ret->n * sizeof(ret->events[0]));
    memcpy(ret->events, deletions, n * sizeof(ret->events[0]));
    ret->n += n;
}

/* Between what it was and what it is: the events that are missing. */
static void settle(struct in *in, const struct qdrant_known *was, struct qdrant_events *ret)
{
    struct event deletions[2];
    bool again = was && was->hash == ret->known.hash;
    bool counts = was && same_key(was, &ret->known) && (was->kinds & QDRANT_IS_MEMORY);
    if (again)
        ret->n = 0;
    for (size_t i = 0; was && i < ret->n; i++)
        if (ret->events[i].type == EVENT_MESSAGE && (was->kinds & QDRANT_IS_MESSAGE))
            ret->events[i].u.message.op = MESSAGE_UPDATE;
    ret->ignored = ret->ignored && !again;
    int64_t accesses = counts ? was->accesses : 0;
    if (ret->known.kinds & QDRANT_IS_MEMORY)
        add_counted_accesses(in, ret, accesses);
    ret->changed = !again || ret->known.accesses != was->accesses;
    if (was && !again)
        put_first(deletions,
                  get_deletions(in->rules, str_from(in->point->id), was, &ret->known, deletions),
                  ret);
}

enum status qdrant_point_events(const struct qdrant_rules *rules, const struct qdrant_point *point,
                                const struct qdrant_known *was, struct event_arena *arena,
                                struct buf *scratch, struct qdrant_events *ret, struct error *err)
{
    struct in in = {.rules = rules, .point = point, .arena = arena};
    ret->n = 0;
    ret->known = (struct qdrant_known){.kinds = 0};
    if (!point->payload)
        (void)error_set(&in.why, STATUS_INVALID, "the point has no payload");
    else
        read_events(&in, ret);
    if (!in.why.code) {
        enum status st = hash_events(ret, scratch, &ret->known.hash, err);
        if (st)
            return st;
        if (ret->ignored)
            ret->known.hash = HASH_IGNORED;
        settle(&in, was, ret);
    }
    if (in.why.code == STATUS_NOMEM)
        return error_set(err, STATUS_NOMEM, "%s", in.why.text);
    return in.why.code ? dead_letter(&in, was, ret, err) : STATUS_OK;
}
