#include "core/event.h"

#include "core/clock.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A message with a usual embedding fits; larger requests get blocks of their own until the reset.
 */
#define ARENA_BYTES       (64u << 10)
#define ARENA_TOTAL_BYTES (4 * (size_t)LIMIT_EVENT_BYTES)

struct block {
    struct block *next;
    max_align_t data[];
};

struct event_arena {
    struct block *blocks;
    size_t used;
    size_t total;
    max_align_t data[ARENA_BYTES / sizeof(max_align_t)];
};

enum status event_arena_new(struct event_arena **ret, struct error *err)
{
    struct event_arena *arena = malloc(sizeof(*arena));
    if (!arena)
        return error_set(err, STATUS_NOMEM, "could not allocate an event arena");
    arena->blocks = NULL;
    arena->used = 0;
    arena->total = 0;
    *ret = arena;
    return STATUS_OK;
}

void event_arena_reset(struct event_arena *arena)
{
    while (arena->blocks) {
        struct block *block = arena->blocks;
        arena->blocks = block->next;
        free(block);
    }
    arena->used = 0;
    arena->total = 0;
}

void event_arena_free(struct event_arena *arena)
{
    if (!arena)
        return;
    event_arena_reset(arena);
    free(arena);
}

void *event_arena_alloc(struct event_arena *arena, size_t size)
{
    if (size > ARENA_TOTAL_BYTES - arena->total)
        return NULL;
    size_t aligned = (size + sizeof(max_align_t) - 1) & ~(sizeof(max_align_t) - 1);
    if (aligned <= sizeof(arena->data) - arena->used) {
        void *p = (char *)arena->data + arena->used;
        arena->used += aligned;
        return p;
    }
    struct block *block = malloc(sizeof(*block) + aligned);
    if (!block)
        return NULL;
    block->next = arena->blocks;
    arena->blocks = block;
    arena->total += size;
    return block->data;
}

static enum status check_string(const char *path, struct str s, size_t max, struct error *err)
{
    if (s.len > max)
        return error_set(err, STATUS_INVALID, "%s: %zu bytes, at most %zu are taken", path, s.len,
                         max);
    if (!str_is_text(s))
        return error_set(err, STATUS_INVALID, "%s: byte %zu is not valid UTF-8 text", path,
                         str_text_prefix(s));
    return STATUS_OK;
}

static enum status check_id(const char *path, struct str s, struct error *err)
{
    if (s.len == 0)
        return error_set(err, STATUS_INVALID, "%s: missing or empty", path);
    return check_string(path, s, LIMIT_ID_BYTES, err);
}

/* NaN is "no value". */
static enum status check_share(const char *path, double v, struct error *err)
{
    if (!isnan(v) && !(v >= 0 && v <= 1))
        return error_set(err, STATUS_INVALID, "%s: %g is not within 0..1", path, v);
    return STATUS_OK;
}

static enum status check_enum(const char *path, int v, int low, int high, struct error *err)
{
    if (v < low || v > high)
        return error_set(err, STATUS_INVALID, "%s: unknown value %d", path, v);
    return STATUS_OK;
}

static enum status check_traits(const struct event_trait *traits, size_t n, struct error *err)
{
    for (size_t i = 0; i < n; i++) {
        enum status st = check_id("traits: name", traits[i].name, err);
        if (st)
            return st;
        if (!isfinite(traits[i].weight))
            return error_set(err, STATUS_INVALID, "traits." STR_FMT ": not a finite number",
                             STR_ARGS(traits[i].name));
    }
    return STATUS_OK;
}

static enum status check_embedding(const struct event_message *m, struct error *err)
{
    if (m->embedding_dims > LIMIT_EMBEDDING_DIMS)
        return error_set(err, STATUS_INVALID, "embedding: %u numbers, at most %d are taken",
                         (unsigned)m->embedding_dims, LIMIT_EMBEDDING_DIMS);
    if ((m->embedding_dims > 0) != (m->embedding != NULL))
        return error_set(err, STATUS_INVALID, "embedding: a count without numbers");
    for (size_t i = 0; m->embedding && i < m->embedding_dims; i++)
        if (!isfinite(m->embedding[i]))
            return error_set(err, STATUS_INVALID, "embedding[%zu]: not a finite 32-bit number", i);
    return STATUS_OK;
}

static enum status check_message(const struct event_message *m, struct error *err)
{
    enum status st = check_enum("role", m->role, ROLE_USER, ROLE_BOT, err);
    if (!st)
        st = check_enum("op", m->op, MESSAGE_INSERT, MESSAGE_UPDATE, err);
    if (!st && !m->content.ptr && m->op == MESSAGE_INSERT)
        st = error_set(err, STATUS_INVALID, "content: missing");
    if (!st)
        st = check_string("content", m->content, LIMIT_TEXT_BYTES, err);
    if (!st)
        st = check_string("emotion", m->emotion, LIMIT_ID_BYTES, err);
    if (!st)
        st = check_share("emotion_confidence", m->emotion_confidence, err);
    if (!st)
        st = check_string("embedding_model", m->embedding_model, LIMIT_ID_BYTES, err);
    if (!st)
        st = check_string("channel_id", m->channel_id, LIMIT_ID_BYTES, err);
    if (!st)
        st = check_embedding(m, err);
    if (st)
        return st;
    return check_traits(m->traits, m->n_traits < LIMIT_TRAITS ? m->n_traits : LIMIT_TRAITS, err);
}

static enum status check_memory(const struct event_memory *m, struct error *err)
{
    enum status st = check_enum("op", m->op, MEMORY_CREATE, MEMORY_PIN, err);
    if (!st)
        st = check_id("memory_id", m->memory_id, err);
    if (!st)
        st = check_share("score", m->score, err);
    if (!st)
        st = check_enum("grade", m->grade, 0, 4, err);
    if (!st)
        st = check_enum("outcome", m->outcome, OUTCOME_NONE, OUTCOME_MISS, err);
    if (!st)
        st = check_share("importance", m->importance, err);
    if (!st)
        st = check_string("memory_type", m->memory_type, LIMIT_ID_BYTES, err);
    return st ? st : check_string("content", m->content, LIMIT_TEXT_BYTES, err);
}

static enum status duplicate(const char *path, struct str name, struct error *err)
{
    return error_set(err, STATUS_INVALID, "%s." STR_FMT ": named twice", path, STR_ARGS(name));
}

static enum status check_metric(const struct event_metric *m, struct error *err)
{
    enum status st = check_id("measurement", m->measurement, err);
    if (!st && (m->n_fields > sizeof(m->fields) / sizeof(m->fields[0]) ||
                m->n_tags > sizeof(m->tags) / sizeof(m->tags[0])))
        st = error_set(err, STATUS_INVALID, "fields: more fields or tags than are taken");
    for (size_t i = 0; !st && i < m->n_fields; i++) {
        st = check_id("fields: name", m->fields[i].name, err);
        if (!st && !isfinite(m->fields[i].value))
            st = error_set(err, STATUS_INVALID, "fields." STR_FMT ": not a finite number",
                           STR_ARGS(m->fields[i].name));
        for (size_t k = 0; !st && k < i; k++)
            if (str_equal(m->fields[k].name, m->fields[i].name))
                st = duplicate("fields", m->fields[i].name, err);
    }
    for (size_t i = 0; !st && i < m->n_tags; i++) {
        st = check_id("tags: name", m->tags[i].key, err);
        if (!st)
            st = check_string("tags: value", m->tags[i].value, LIMIT_ID_BYTES, err);
        for (size_t k = 0; !st && k < i; k++)
            if (str_equal(m->tags[k].key, m->tags[i].key))
                st = duplicate("tags", m->tags[i].key, err);
    }
    return st;
}

static enum status check_character(const struct event_character *c, struct error *err)
{
    if (c->n_traits > sizeof(c->traits) / sizeof(c->traits[0]))
        return error_set(err, STATUS_INVALID, "traits: more than are taken");
    enum status st = check_traits(c->traits, c->n_traits, err);
    for (size_t i = 0; !st && i < c->n_traits; i++)
        for (size_t k = 0; !st && k < i; k++)
            if (str_equal(c->traits[k].name, c->traits[i].name))
                st = duplicate("traits", c->traits[i].name, err);
    return st;
}

static enum status check_dead_letter(const struct event *e, struct error *err)
{
    const struct event_dead_letter *d = &e->u.dead_letter;
    if (e->id.len > LIMIT_ID_BYTES || e->user_id.len > LIMIT_ID_BYTES ||
        e->bot_name.len > LIMIT_ID_BYTES || d->where.len > LIMIT_DEAD_LETTER_BYTES ||
        d->reason.len > LIMIT_DEAD_LETTER_BYTES || d->bytes.len > LIMIT_DEAD_LETTER_BYTES)
        return error_set(err, STATUS_INVALID, "dead letter: a field is longer than is taken");
    return STATUS_OK;
}

static bool is_blank(unsigned c)
{
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

/* The code point at p and its length, for sequences of up to three bytes: no blank needs more. */
static unsigned code_point(const unsigned char *p, size_t left, size_t *ret_len)
{
    *ret_len = 1;
    if (p[0] >= 0xC2 && p[0] < 0xE0 && left > 1) {
        *ret_len = 2;
        return (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
    }
    if (p[0] >= 0xE0 && p[0] < 0xF0 && left > 2) {
        *ret_len = 3;
        return (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    }
    return p[0] < 0x80 ? p[0] : 0xFFFD;
}

/* Each rule drops or replaces single characters, so one pass does: a separator is only owed, and
 * paid before the next letter, which also strips both ends. */
size_t event_bot_name(struct str raw, char out[LIMIT_ID_BYTES])
{
    const unsigned char *p = (const unsigned char *)raw.ptr;
    size_t n = 0;
    bool owed = false;
    size_t len = 1;
    for (size_t i = 0; i < raw.len && n < LIMIT_ID_BYTES; i += len) {
        unsigned c = code_point(p + i, raw.len - i, &len);
        if (c >= 'A' && c <= 'Z')
            c += 'a' - 'A';
        if (c == '_' || c == '-' || is_blank(c)) {
            owed = n > 0;
            continue;
        }
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')))
            continue;
        if (owed && n + 1 < LIMIT_ID_BYTES)
            out[n++] = '_';
        owed = false;
        out[n++] = (char)c;
    }
    return n;
}

static enum status check_bot(struct str bot, struct error *err)
{
    char normal[LIMIT_ID_BYTES];
    if (bot.len == 0)
        return error_set(err, STATUS_INVALID, "bot_name: missing or empty");
    size_t n = event_bot_name(bot, normal);
    if (!str_equal(bot, (struct str){normal, n}))
        return error_set(err, STATUS_INVALID, "bot_name: not a normal name of at most %d bytes",
                         LIMIT_ID_BYTES);
    return STATUS_OK;
}

static enum status check_head(const struct event *e, struct error *err)
{
    enum status st = check_id("id", e->id, err);
    bool has_user = e->user_id.len > 0;
    if (!st && (has_user || (e->type != EVENT_METRIC && e->type != EVENT_CHARACTER)))
        st = check_id("user_id", e->user_id, err);
    bool every_bot = e->type == EVENT_PRIVACY || e->type == EVENT_REQUEST;
    if (!st && (e->bot_name.len > 0 || !every_bot))
        st = check_bot(e->bot_name, err);
    if (!st && (e->at_us < TIME_MIN_US || e->at_us > TIME_MAX_US))
        st = error_set(err, STATUS_INVALID, "at: not within the years 1 to 9999");
    return st;
}

enum status event_check(const struct event *e, struct error *err)
{
    if (e->type == EVENT_DEAD_LETTER)
        return check_dead_letter(e, err);
    enum status st = check_head(e, err);
    if (st)
        return st;
    switch (e->type) {
    case EVENT_MESSAGE:
        return check_message(&e->u.message, err);
    case EVENT_MESSAGE_DELETED:
    case EVENT_DEAD_LETTER:
        return STATUS_OK;
    case EVENT_MEMORY:
        return check_memory(&e->u.memory, err);
    case EVENT_METRIC:
        return check_metric(&e->u.metric, err);
    case EVENT_OUTREACH:
        st = check_enum("op", e->u.outreach.op, OUTREACH_SENT, OUTREACH_OPTED_OUT, err);
        return st ? st : check_string("topic", e->u.outreach.topic, LIMIT_ID_BYTES, err);
    case EVENT_CHARACTER:
        return check_character(&e->u.character, err);
    case EVENT_PRIVACY:
        st = check_enum("op", e->u.privacy.op, PRIVACY_ERASE, PRIVACY_OPTIN, err);
        return st ? st : check_string("scope", e->u.privacy.scope, LIMIT_ID_BYTES, err);
    case EVENT_REQUEST:
        st = check_enum("op", e->u.request.op, REQUEST_INVALIDATE, REQUEST_TOUCH, err);
        return st ? st : check_string("reason", e->u.request.reason, LIMIT_ID_BYTES, err);
    }
    return error_set(err, STATUS_INVALID, "type: unknown value %d", (int)e->type);
}
