/* A document to its elements, as each sender forms them. */
#include "core/clock.h"
#include "ingest/value.h"
#include "ingest/webhook_internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct str text(const json_t *json)
{
    return (struct str){json_string_value(json), json_string_length(json)};
}

static struct str member(const json_t *object, const char *path)
{
    return text(value_json_path(object, path));
}

/* INVALID is about the element: it is kept, and the next one is looked at. */
static enum status settle(struct webhook_reading *r, const json_t *element, enum status st,
                          struct error *err)
{
    struct error why = *err;
    return st == STATUS_INVALID ? webhook_dead_element(r, element, why.text, err) : st;
}

/* ---- ids ---- */

static enum status put_id(struct webhook_reading *r, struct str a, struct str b, struct str c,
                          struct error *err)
{
    struct buf joined;
    buf_init(&joined, a.len + b.len + c.len + 8);
    enum status st = buf_append_str(&joined, a);
    if (!st && b.len)
        st = buf_printf(&joined, " " STR_FMT " " STR_FMT, STR_ARGS(b), STR_ARGS(c));
    if (!st)
        st = buf_put_bytes(&r->ids, (struct str){joined.data, joined.len});
    buf_deinit(&joined);
    r->n_ids += !st;
    return st ? error_set(err, st, "could not keep the ids of a delivery") : STATUS_OK;
}

static enum status put_scalar_id(struct webhook_reading *r, const json_t *id, struct error *err)
{
    char number[32];
    if (json_is_integer(id)) {
        snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(id));
        return put_id(r, str_from(number), STR(""), STR(""), err);
    }
    if (json_is_string(id) && json_string_length(id))
        return put_id(r, text(id), STR(""), STR(""), err);
    r->n_without_id++;
    return STATUS_OK;
}

/* Sinks from before the key was there: what it is made of. */
static enum status put_sequin_id(struct webhook_reading *r, const json_t *element,
                                 struct error *err)
{
    const json_t *key = value_json_path(element, "metadata.idempotency_key");
    const json_t *id = value_json_path(element, "record.id");
    struct str table = member(element, "metadata.table_name");
    struct str at = member(element, "metadata.commit_timestamp");
    char number[32];
    struct str row = text(id);
    if (json_is_integer(id)) {
        snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(id));
        row = str_from(number);
    }
    if (key || !table.len || !at.len || !row.len)
        return put_scalar_id(r, key, err);
    return put_id(r, table, row, at, err);
}

static enum status collect_id(struct webhook_reading *r, const json_t *element, struct error *err)
{
    const struct webhook *w = r->webhook;
    if (w->delivery_id[0])
        return put_scalar_id(r, value_json_path(element, w->delivery_id), err);
    if (w->preset == WEBHOOK_SEQUIN)
        return put_sequin_id(r, element, err);
    const char *name = w->preset == WEBHOOK_STRIPE     ? "id"
                       : w->preset == WEBHOOK_SLACK    ? "event_id"
                       : w->preset == WEBHOOK_TELEGRAM ? "update_id"
                                                       : NULL;
    return name ? put_scalar_id(r, json_object_get(element, name), err) : STATUS_OK;
}

/* ---- answers that are not 204 ---- */

static bool is_challenge(struct str s)
{
    bool ok = s.len > 0 && s.len <= 256;
    for (size_t i = 0; i < s.len && ok; i++)
        ok = isalnum((unsigned char)s.ptr[i]) || s.ptr[i] == '-' || s.ptr[i] == '_';
    return ok;
}

/* True: the element asks for an answer, and has no other meaning. */
static bool wants_reply(struct webhook_reading *r, const json_t *element)
{
    const json_t *type = json_object_get(element, "type");
    if (r->webhook->preset == WEBHOOK_SLACK && str_equal(text(type), STR("url_verification"))) {
        struct str challenge = member(element, "challenge");
        if (!is_challenge(challenge))
            return false;
        r->out->reply = WEBHOOK_REPLY_CHALLENGE;
        snprintf(r->out->challenge, sizeof(r->out->challenge), STR_FMT, STR_ARGS(challenge));
        return true;
    }
    if (r->webhook->preset != WEBHOOK_DISCORD || !json_is_integer(type))
        return false;
    /* 1 is the PING of interactions; of webhook events it is an event, and 0 the PING. */
    bool is_event = json_object_get(element, "event") != NULL;
    if (json_integer_value(type) == 1 && !is_event)
        r->out->reply = WEBHOOK_REPLY_PONG;
    else if (json_integer_value(type) != 0 || is_event)
        return false;
    else
        webhook_ignore(r);
    return true;
}

/* ---- rows ---- */

static json_t *around(const struct webhook_reading *r, struct str at, json_t *body)
{
    char received[40];
    if (!at.len) {
        time_format(r->in->received_us, true, received);
        at = str_from(received);
    }
    json_t *object = json_object();
    json_object_set_new(object, WEBHOOK_COLUMN_AT, json_stringn(at.ptr, at.len));
    if (r->in->event.len)
        json_object_set_new(object, WEBHOOK_COLUMN_EVENT,
                            json_stringn(r->in->event.ptr, r->in->event.len));
    if (r->in->id.len)
        json_object_set_new(object, WEBHOOK_COLUMN_DELIVERY,
                            json_stringn(r->in->id.ptr, r->in->id.len));
    if (body)
        json_object_set(object, WEBHOOK_COLUMN_BODY, body);
    return object;
}

struct change_form {
    const json_t *row, *old_row, *old_members;
    struct str action, schema, table, at;
};

static enum status take_change(struct webhook_reading *r, const json_t *element,
                               const struct change_form *f, struct error *err)
{
    static const struct {
        const char *action;
        enum row_change change;
    } actions[] = {
        {"insert", CHANGE_INSERT}, {"INSERT", CHANGE_INSERT}, {"read", CHANGE_INSERT},
        {"update", CHANGE_UPDATE}, {"UPDATE", CHANGE_UPDATE}, {"delete", CHANGE_DELETE},
        {"DELETE", CHANGE_DELETE},
    };
    size_t i = 0;
    while (i < sizeof(actions) / sizeof(actions[0]) &&
           !str_equal(str_from(actions[i].action), f->action))
        i++;
    if (i == sizeof(actions) / sizeof(actions[0]))
        return webhook_dead_element(r, element, "is not an insert, update or delete of a row", err);
    struct webhook_source source = {f->schema, f->table, r->in->received_us};
    if (!f->table.ptr)
        return webhook_dead_element(r, element, "does not say which table it is of", err);
    int64_t at_us;
    bool has_time = f->at.len && time_parse(f->at.ptr, f->at.len, &at_us) == 0;
    if (has_time)
        source.commit_us = at_us;
    struct json_change c = {.change = actions[i].change};
    c.row = c.change == CHANGE_DELETE ? NULL : f->row;
    c.old_row = c.change == CHANGE_INSERT ? NULL : f->old_row;
    c.old_members = f->old_members;
    if (!json_is_object(c.change == CHANGE_DELETE ? c.old_row : c.row))
        return webhook_dead_element(r, element, "has no row", err);
    json_t *outside = around(r, has_time ? f->at : STR_NULL, NULL);
    c.around = outside;
    enum status st = settle(r, element, webhook_take_row(r, &c, &source, err), err);
    json_decref(outside);
    return st;
}

static const json_t *object_or_null(const json_t *json)
{
    return json_is_object(json) ? json : NULL;
}

static enum status take_supabase(struct webhook_reading *r, const json_t *element,
                                 struct error *err)
{
    struct change_form f = {
        .action = member(element, "type"),
        .schema = member(element, "schema"),
        .table = member(element, "table"),
        .row = object_or_null(json_object_get(element, "record")),
        .old_row = object_or_null(json_object_get(element, "old_record")),
    };
    return take_change(r, element, &f, err);
}

/* Of an update `changes` holds what was different before, of a delete `record` is the old row. */
static enum status take_sequin(struct webhook_reading *r, const json_t *element, struct error *err)
{
    struct change_form f = {
        .action = member(element, "action"),
        .schema = member(element, "metadata.table_schema"),
        .table = member(element, "metadata.table_name"),
        .at = member(element, "metadata.commit_timestamp"),
        .row = object_or_null(json_object_get(element, "record")),
        .old_members = object_or_null(json_object_get(element, "changes")),
    };
    f.old_row = f.row;
    if (!f.old_members && !str_equal(f.action, STR("delete")))
        f.old_row = NULL; /* what it was is not known */
    return take_change(r, element, &f, err);
}

static enum status take_row(struct webhook_reading *r, const json_t *row, const json_t *outside,
                            struct error *err)
{
    struct webhook_source source = {.commit_us = r->in->received_us};
    if (r->webhook->preset == WEBHOOK_GITHUB && r->in->event.ptr)
        source.table = r->in->event;
    if (!json_is_object(row))
        return webhook_dead_element(r, row, "is not an object", err);
    struct json_change c = {.change = CHANGE_INSERT, .row = row, .around = outside};
    return settle(r, row, webhook_take_row(r, &c, &source, err), err);
}

static enum status take_rows(struct webhook_reading *r, json_t *element, struct error *err)
{
    const char *each = r->webhook->each;
    const json_t *rows = *each ? value_json_path(element, each) : element;
    if (!rows) {
        webhook_ignore(r);
        return STATUS_OK;
    }
    json_t *outside = around(r, STR_NULL, element);
    enum status st = STATUS_OK;
    if (json_is_array(rows))
        for (size_t i = 0; i < json_array_size(rows) && !st; i++)
            st = take_row(r, json_array_get(rows, i), outside, err);
    else
        st = take_row(r, rows, outside, err);
    json_decref(outside);
    return st;
}

/* ---- own events ---- */

static enum status take_own(struct webhook_reading *r, const json_t *element, struct error *err)
{
    char *written = json_dumps(element, JSON_COMPACT);
    if (!written)
        return error_set(err, STATUS_NOMEM, "could not write out an element");
    enum status st = webhook_event(r, str_from(written), err);
    free(written);
    return st;
}

enum status webhook_event(struct webhook_reading *r, struct str event, struct error *err)
{
    enum status st = webhook_take_event(r, event, err);
    struct error why = *err;
    return st == STATUS_INVALID ? webhook_dead_letter(r, event, why.text, err) : st;
}

/* ---- documents ---- */

static enum status take_element(struct webhook_reading *r, json_t *element, struct error *err)
{
    if (!json_is_object(element))
        return webhook_dead_element(r, element, "is not an object", err);
    if (wants_reply(r, element))
        return STATUS_OK;
    enum status st = collect_id(r, element, err);
    if (st)
        return st;
    if (r->webhook->preset == WEBHOOK_WARMPATH)
        return take_own(r, element, err);
    if (r->webhook->preset == WEBHOOK_SUPABASE)
        return take_supabase(r, element, err);
    if (r->webhook->preset == WEBHOOK_SEQUIN)
        return take_sequin(r, element, err);
    return take_rows(r, element, err);
}

enum status webhook_document(struct webhook_reading *r, json_t *document, struct error *err)
{
    json_t *list = json_is_array(document) ? document : NULL;
    if (r->webhook->preset == WEBHOOK_SEQUIN && !list &&
        json_is_array(json_object_get(document, "data")))
        list = json_object_get(document, "data");
    if (!list)
        return take_element(r, document, err);
    enum status st = STATUS_OK;
    for (size_t i = 0; i < json_array_size(list) && !st; i++)
        st = take_element(r, json_array_get(list, i), err);
    return st;
}
