#include "ingest/webhook.h"

#include "core/clock.h"
#include "core/hash.h"
#include "ingest/webhook_internal.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum status webhook_new(const struct webhook_config *cfg, struct webhook **ret, struct error *err)
{
    CLEANUP(webhook_freep) struct webhook *w = calloc(1, sizeof(*w));
    if (!w)
        return error_set(err, STATUS_NOMEM, "could not allocate a webhook");
    w->preset = cfg->preset;
    w->mappings = cfg->tables;
    int n = snprintf(w->name, sizeof(w->name), "%s", cfg->name);
    int n_each = snprintf(w->each, sizeof(w->each), "%s", cfg->each);
    int n_id = snprintf(w->delivery_id, sizeof(w->delivery_id), "%s", cfg->delivery_id);
    if ((size_t)n >= sizeof(w->name) || (size_t)n_each >= sizeof(w->each) ||
        (size_t)n_id >= sizeof(w->delivery_id))
        return error_set(err, STATUS_INVALID, "webhook \"%s\": a name is too long", w->name);
    for (size_t i = 0; cfg->tables && i < cfg->tables->n; i++) {
        enum status st = json_table_new(&cfg->tables->tables[i], &w->tables[i], err);
        if (st)
            return st;
        w->n_tables++;
    }
    *ret = TAKE(w);
    return STATUS_OK;
}

void webhook_free(struct webhook *w)
{
    for (size_t i = 0; w && i < w->n_tables; i++)
        json_table_free(w->tables[i]);
    free(w);
}

void webhook_result_init(struct webhook_result *r)
{
    *r = (struct webhook_result){.n_events = 0};
    buf_init(&r->events, WEBHOOK_EVENTS_BYTES);
}

void webhook_result_deinit(struct webhook_result *r)
{
    buf_deinit(&r->events);
}

/* ---- events ---- */

const char *webhook_event_kind(int type)
{
    static const char *const kinds[WEBHOOK_EVENT_TYPES] = {
        [EVENT_MESSAGE] = "message",   [EVENT_MESSAGE_DELETED] = "message_deleted",
        [EVENT_MEMORY] = "memory",     [EVENT_METRIC] = "metric",
        [EVENT_OUTREACH] = "outreach", [EVENT_CHARACTER] = "character",
        [EVENT_PRIVACY] = "privacy",   [EVENT_DEAD_LETTER] = "dead_letter",
    };
    return type > 0 && type < WEBHOOK_EVENT_TYPES ? kinds[type] : NULL;
}

static enum status put_event(struct webhook_reading *r, const struct event *e, struct error *err)
{
    struct buf one;
    buf_init(&one, LIMIT_EVENT_BYTES);
    enum status st = event_encode(e, &one, err);
    if (st == STATUS_LIMIT)
        st = error_set(err, STATUS_INVALID, "is larger than an event may be");
    if (!st && buf_put_bytes(&r->out->events, (struct str){one.data, one.len}) != STATUS_OK)
        st = error_set(err, STATUS_LIMIT, "the events of one body are more than %u bytes",
                       WEBHOOK_EVENTS_BYTES);
    buf_deinit(&one);
    r->out->n_events += !st;
    r->out->by_type[e->type] += !st;
    return st;
}

void webhook_ignore(struct webhook_reading *r)
{
    r->out->n_ignored++;
}

enum status webhook_dead_letter(struct webhook_reading *r, struct str bytes, const char *why,
                                struct error *err)
{
    char id[48], where[80];
    snprintf(id, sizeof(id), "%016" PRIx64 "/%" PRIu32, r->digest, r->out->n_dead);
    snprintf(where, sizeof(where), "webhook:%s", r->webhook->name);
    struct event e = {.type = EVENT_DEAD_LETTER,
                      .id = str_from(id),
                      .user_id = STR(""),
                      .bot_name = STR(""),
                      .at_us = r->in->received_us};
    e.u.dead_letter.where = str_from(where);
    e.u.dead_letter.reason = str_from(why);
    e.u.dead_letter.bytes =
        bytes.len ? (struct str){bytes.ptr, str_cut(bytes, LIMIT_DEAD_LETTER_BYTES).len} : STR("");
    enum status st = put_event(r, &e, err);
    r->out->n_dead += !st;
    return st;
}

enum status webhook_dead_element(struct webhook_reading *r, const json_t *element, const char *why,
                                 struct error *err)
{
    char *text = json_dumps(element, JSON_COMPACT | JSON_ENCODE_ANY);
    if (!text)
        return error_set(err, STATUS_NOMEM, "could not write out an element");
    enum status st = webhook_dead_letter(r, str_from(text), why, err);
    free(text);
    return st;
}

enum status webhook_take_event(struct webhook_reading *r, struct str text, struct error *err)
{
    struct event e;
    event_arena_reset(r->arena);
    enum status st = event_from_json(text, r->arena, &e, err);
    if (!st && e.type == EVENT_DEAD_LETTER)
        st = error_set(err, STATUS_INVALID, "type: a dead letter cannot be sent");
    if (!st && e.type == EVENT_REQUEST)
        st =
            error_set(err, STATUS_INVALID,
                      "type: a request comes from the database: strategic_invalidate() and others");
    if (!st)
        st = put_event(r, &e, err);
    r->out->n_usable += !st;
    return st;
}

/* The row is gone since it was deleted there; the row itself does not know. */
static void fill_time(struct event *e, int64_t commit_us)
{
    if (e->type == EVENT_MEMORY && e->u.memory.op == MEMORY_DELETE && e->at_us == 0)
        e->at_us = commit_us;
}

static bool is_of(const struct mapping *m, const struct webhook_source *s)
{
    return !s->table.ptr || (str_equal(s->table, str_from(m->table)) &&
                             (!s->schema.ptr || str_equal(s->schema, str_from(m->schema))));
}

enum status webhook_take_row(struct webhook_reading *r, const struct json_change *c,
                             const struct webhook_source *source, struct error *err)
{
    const struct webhook_result before = *r->out;
    enum status st = STATUS_OK;
    for (size_t i = 0; i < r->webhook->n_tables && !st; i++) {
        const struct json_table *t = r->webhook->tables[i];
        size_t n = 0;
        if (!is_of(json_table_mapping(t), source))
            continue;
        event_arena_reset(r->arena);
        st = json_row_apply(t, c, r->arena, r->events, &n, err);
        st = st == STATUS_LIMIT ? STATUS_INVALID : st; /* of the row, not of the body */
        for (size_t k = 0; k < n && !st; k++) {
            fill_time(&r->events[k], source->commit_us);
            st = put_event(r, &r->events[k], err);
        }
    }
    if (st) { /* all events of a row, or none of them */
        r->out->events.len = before.events.len;
        r->out->n_events = before.n_events;
        memcpy(r->out->by_type, before.by_type, sizeof(before.by_type));
        return st;
    }
    if (r->out->n_events > before.n_events)
        r->out->n_usable++;
    else
        webhook_ignore(r);
    return STATUS_OK;
}

/* ---- the id of the delivery ---- */

static void digest_hex(struct str s, char out[65])
{
    unsigned char digest[crypto_hash_sha256_BYTES];
    crypto_hash_sha256(digest, (const unsigned char *)s.ptr, s.len);
    sodium_bin2hex(out, 65, digest, sizeof(digest));
}

static void set_id(struct webhook_result *out, struct str id)
{
    if (id.len > WEBHOOK_ID_BYTES || !str_is_text(id))
        digest_hex(id, out->id);
    else if (id.len)
        snprintf(out->id, sizeof(out->id), STR_FMT, STR_ARGS(id));
}

/* Of several elements one digest; an element without an id leaves the delivery without one. */
static void choose_id(struct webhook_reading *r)
{
    bool from_body = r->n_ids > 0 && r->n_without_id == 0;
    bool by_path = r->webhook->delivery_id[0] != '\0';
    struct reader ids = reader_of(r->ids.data, r->ids.len);
    if (r->in->id.len && !(by_path && from_body))
        set_id(r->out, r->in->id);
    else if (from_body && r->n_ids == 1)
        set_id(r->out, reader_blob(&ids));
    else if (from_body)
        digest_hex((struct str){r->ids.data, r->ids.len}, r->out->id);
}

enum status webhook_decode(const struct webhook *w, const struct webhook_delivery *in,
                           struct webhook_result *ret, struct error *err)
{
    static const struct webhook_sink sink = {webhook_document, webhook_event, webhook_dead_letter};
    struct webhook_reading r = {.webhook = w, .in = in, .out = ret};
    struct error own; /* reasons of dead letters are read from it */
    err = err ? err : &own;
    r.digest = hash64(in->body.ptr ? in->body : STR(""));
    if (w->n_tables)
        r.events = reallocarray(NULL, MAPPING_EVENTS_MAX, sizeof(*r.events));
    if (w->n_tables && !r.events)
        return error_set(err, STATUS_NOMEM, "could not allocate events");
    buf_init(&r.ids, WEBHOOK_EVENTS_BYTES);
    enum status st = event_arena_new(&r.arena, err);
    if (!st)
        st = webhook_read_body(&r, &sink, err);
    if (!st)
        choose_id(&r);
    event_arena_free(r.arena);
    buf_deinit(&r.ids);
    free(r.events);
    return st;
}
