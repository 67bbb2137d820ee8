#include "server/dlq_retry.h"

#include "core/clock.h"
#include "core/event.h"
#include "engines/tables.h"
#include "ingest/webhook.h"
#include "state/inbox.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define INBOX_SOURCE  "dlq"
#define WEBHOOK_PLACE "webhook:"

void dlq_id(const struct store_dead_letter *d, char out[DLQ_ID_BYTES])
{
    snprintf(out, DLQ_ID_BYTES, "%s:" LSN_FMT ":%" PRIu64,
             d->source == SOURCE_POSTGRES ? "postgres" : "inbox", LSN_ARGS(d->pos.lsn), d->pos.seq);
}

static bool begins_with(struct str s, const char *prefix)
{
    size_t n = strlen(prefix);
    return s.len >= n && memcmp(s.ptr, prefix, n) == 0;
}

/* ---- to the inbox ---- */

static enum status make_inbox(const struct config *cfg, struct error *err)
{
    struct inbox_config ic = {
        .dir = cfg->state_dir,
        .clock = &clock_real,
        .keep_ids_us = cfg->inbox.keep_ids_us,
        .bytes_max = (uint64_t)cfg->inbox.max_size,
    };
    struct inbox *inbox = NULL;
    enum status st = inbox_open(&ic, &inbox, err);
    inbox_close(inbox);
    return st;
}

static enum status append(const struct config *cfg, const struct store_dead_letter *d,
                          struct str events, uint32_t n, bool *made, struct error *err)
{
    char id[DLQ_ID_BYTES];
    dlq_id(d, id);
    const struct inbox_delivery delivery = {
        .source = STR(INBOX_SOURCE),
        .id = str_from(id),
        .received_us = clock_wall_us(&clock_real),
        .events = events,
        .n_events = n,
    };
    enum status st = inbox_append(cfg->state_dir, &delivery, err);
    if (st != STATUS_END)
        return st;
    st = make_inbox(cfg, err);
    *made = true;
    return st ? st : inbox_append(cfg->state_dir, &delivery, err);
}

/* ---- what it is ---- */

/* An event in the public form, refused by a worker. */
static enum status retry_event(const struct config *cfg, const struct store_dead_letter *d,
                               bool *made, struct error *err)
{
    CLEANUP(buf_deinit) struct buf one;
    CLEANUP(buf_deinit) struct buf events;
    struct event_arena *arena = NULL;
    struct event e;
    struct error why = {0};
    buf_init(&one, LIMIT_FRAME_MAX_BYTES);
    buf_init(&events, LIMIT_FRAME_MAX_BYTES);
    enum status st = event_arena_new(&arena, err);
    if (st)
        return st;
    st = event_from_json(d->bytes, arena, &e, &why);
    if (!st)
        st = event_encode(&e, &one, &why);
    if (!st)
        st = buf_put_bytes(&events, (struct str){one.data, one.len});
    event_arena_free(arena);
    if (st)
        return error_set(err, STATUS_INVALID, "its bytes are no event: %s", why.text);
    return append(cfg, d, (struct str){events.data, events.len}, 1, made, err);
}

static const struct config_webhook *find_webhook(const struct config *cfg, struct str name)
{
    for (size_t i = 0; i < cfg->n_webhooks; i++)
        if (str_equal(str_from(cfg->webhooks[i].name), name))
            return &cfg->webhooks[i];
    return NULL;
}

static bool one_relation(const struct mapping_set *set)
{
    for (size_t i = 1; i < set->n; i++)
        if (strcmp(set->tables[i].table, set->tables[0].table) != 0)
            return false;
    return true;
}

/* The reason of the first event, which is a dead letter. */
static enum status still_bad(const struct webhook_result *r, struct error *err)
{
    struct event_arena *arena = NULL;
    struct event e;
    struct reader at = reader_of(r->events.data, r->events.len);
    struct str reason = STR("it cannot be read");
    enum status st = event_arena_new(&arena, err);
    if (st)
        return st;
    if (event_decode(reader_blob(&at), arena, &e, NULL) == STATUS_OK && e.type == EVENT_DEAD_LETTER)
        reason = e.u.dead_letter.reason;
    st = error_set(err, STATUS_INVALID,
                   "it cannot be used by the configuration of today either: " STR_FMT,
                   STR_ARGS(reason));
    event_arena_free(arena);
    return st;
}

/* An element of a body: what led to it (`each`) and came beside it is not kept. */
static enum status decode_element(const struct config_webhook *w, const struct store_dead_letter *d,
                                  struct webhook_result *ret, struct error *err)
{
    CLEANUP(webhook_freep) struct webhook *decoder = NULL;
    const struct webhook_config wc = {
        .name = w->name, .preset = w->preset, .each = "", .delivery_id = "", .tables = w->tables};
    const struct webhook_delivery in = {
        .form = WEBHOOK_FORM_JSON, .body = d->bytes, .received_us = d->at_us};
    enum status st = webhook_new(&wc, &decoder, err);
    if (!st)
        st = webhook_decode(decoder, &in, ret, err);
    if (st)
        return st;
    if (ret->n_dead > 0)
        return still_bad(ret, err);
    if (ret->n_usable == 0)
        return error_set(err, STATUS_INVALID,
                         "the configuration of today ignores it: `warmpath dlq drop` it");
    return STATUS_OK;
}

static enum status retry_element(const struct config *cfg, const struct store_dead_letter *d,
                                 bool *made, struct error *err)
{
    const size_t skip = sizeof(WEBHOOK_PLACE) - 1;
    struct str name = {d->where.ptr + skip, d->where.len - skip};
    const struct config_webhook *w = find_webhook(cfg, name);
    if (!w)
        return error_set(err, STATUS_INVALID,
                         "no webhook is called \"" STR_FMT "\" any more, so that nothing says what "
                         "it means: configure it again, or drop the letter",
                         STR_ARGS(name));
    if (w->preset == WEBHOOK_GITHUB && w->tables && !one_relation(w->tables))
        return error_set(err, STATUS_INVALID,
                         "which event of GitHub it was is not kept: have GitHub deliver it again");
    struct webhook_result r;
    webhook_result_init(&r);
    enum status st = decode_element(w, d, &r, err);
    if (!st)
        st = append(cfg, d, (struct str){r.events.data, r.events.len}, r.n_events, made, err);
    webhook_result_deinit(&r);
    return st;
}

static bool is_cache_table(struct str where)
{
    for (int t = 0; t < TABLE_COUNT; t++)
        if (str_equal(str_from(tables[t].name), where))
            return true;
    return false;
}

static enum status refuse(const struct store_dead_letter *d, struct error *err)
{
    if (is_cache_table(d->where))
        return error_set(err, STATUS_INVALID,
                         "PostgreSQL refused the row, not an event: mend what the reason names; "
                         "the row comes again with the next change of its key, or by `warmpath "
                         "rebuild --user ID`");
    if (str_equal(d->where, STR("request")))
        return error_set(err, STATUS_INVALID,
                         "it was no request: have the application ask by strategic_invalidate() "
                         "and the like, and drop it");
    if (begins_with(d->where, "influx:"))
        return error_set(err, STATUS_INVALID,
                         "the unit of its time is not kept: write the mended line again");
    if (begins_with(d->where, "qdrant:"))
        return error_set(err, STATUS_INVALID,
                         "mend the point in Qdrant: it is read again when it changes");
    if (d->where.len && memchr(d->where.ptr, '.', d->where.len))
        return error_set(err, STATUS_INVALID,
                         "of a row only the beginning of each value is kept: mend the mapping or "
                         "the row, then `warmpath rebuild --user ID`");
    return error_set(err, STATUS_INVALID, "what it was is not kept in a form that can be read");
}

enum status dlq_retry(const struct config *cfg, const struct store_dead_letter *d, bool *made,
                      struct error *err)
{
    bool event = str_equal(d->where, STR("worker"));
    if (!event && !begins_with(d->where, WEBHOOK_PLACE))
        return refuse(d, err);
    if (d->bytes.len >= LIMIT_DEAD_LETTER_BYTES)
        return error_set(err, STATUS_INVALID,
                         "it was cut at %u KiB: have its sender send it again, or, when it is a "
                         "row of the source, `warmpath rebuild --user ID`",
                         LIMIT_DEAD_LETTER_BYTES >> 10);
    return event ? retry_event(cfg, d, made, err) : retry_element(cfg, d, made, err);
}
