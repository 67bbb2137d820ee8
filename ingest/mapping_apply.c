/* One row change to events. The rules are in ingest/mapping.h. */
#include "ingest/row_reader.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

/* r reads the old row of a DELETE, or of an UPDATE that took the row away. */
static enum status get_delete(struct row_reader *r, struct event *e, struct error *err)
{
    static const enum mapping_field key[] = {FIELD_ID, FIELD_USER_ID, FIELD_BOT_NAME,
                                             FIELD_MEMORY_ID};
    /* A key column that is NULL here was not part of the identity, so it was not sent. */
    for (size_t i = 0; i < sizeof(key) / sizeof(key[0]); i++) {
        struct got got;
        if (!r->binding->mapping->fields[key[i]].set)
            continue;
        enum status st = row_get(r, key[i], &got, err);
        if (st)
            return st;
        if (got.kind == GOT_NONE || got.kind == GOT_UNCHANGED)
            return row_needs_old(r, key[i], err);
    }
    *e = (struct event){.type = EVENT_MESSAGE_DELETED};
    enum status st = row_get_key(r, e, err);
    if (!st && r->binding->mapping->type == EVENT_MEMORY) {
        e->type = EVENT_MEMORY;
        e->u.memory = (struct event_memory){.op = MEMORY_DELETE, .score = NAN, .importance = NAN};
        st = row_get_needed(r, FIELD_MEMORY_ID, &e->u.memory.memory_id, err);
    }
    return st ? st : event_check(e, err);
}

/*
 * Whether the old row had another key than now. Key columns that the old row does not bring are
 * taken as unchanged as long as the others are; once one differs, get_delete() asks for them all.
 */
static enum status key_moved(struct row_reader *old, const struct event *now, bool *ret,
                             struct error *err)
{
    static const enum mapping_field fields[] = {FIELD_ID, FIELD_USER_ID, FIELD_BOT_NAME};
    const struct str current[] = {now->id, now->user_id, now->bot_name};
    bool moved = false;
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        struct got got;
        struct str was = STR_NULL;
        enum status st = row_get(old, fields[i], &got, err);
        if (st)
            return st;
        if (got.kind == GOT_NONE || got.kind == GOT_UNCHANGED)
            continue;
        st = fields[i] == FIELD_BOT_NAME ? row_get_bot(old, true, &was, err)
                                         : row_get_needed(old, fields[i], &was, err);
        if (st)
            return st;
        moved |= !str_equal(was, current[i]);
    }
    *ret = moved;
    return STATUS_OK;
}

/* What became of a row that the mapping takes now. */
static enum status apply_present(struct row_reader *now, struct row_reader *old, struct event *ret,
                                 size_t *ret_n, struct error *err)
{
    const struct mapping *m = now->binding->mapping;
    enum presence was = PRESENT;
    bool moved = false;
    size_t n = 0;
    struct event e;
    struct got content;
    enum status st = row_presence(old, &was, err);
    if (!st)
        st = row_get(now, FIELD_CONTENT, &content, err);
    if (st)
        return st;
    /* If it was away, nothing remembers its text. Enum maps are of what hardly ever changes. */
    if (was == PRESENCE_UNKNOWN && (*m->soft_delete || *m->only_if) &&
        content.kind == GOT_UNCHANGED)
        return row_needs_old(now, FIELD_CONTENT, err);
    st = row_event(now, was == ABSENT, &e, err);
    if (!st && was != ABSENT && !mapping_is_log(m))
        st = key_moved(old, &e, &moved, err);
    if (!st && moved) {
        st = get_delete(old, &ret[n++], err);
        if (!st)
            st = row_event(now, true, &e, err);
    }
    if (st)
        return st;
    ret[n++] = e;
    *ret_n = n;
    return STATUS_OK;
}

static enum status apply_update(struct row_reader *now, struct row_reader *old, struct event *ret,
                                size_t *ret_n, struct error *err)
{
    enum presence is = PRESENT;
    enum presence was = PRESENT;
    enum status st = row_presence(now, &is, err);
    if (!st && is != ABSENT)
        return apply_present(now, old, ret, ret_n, err);
    if (!st)
        st = row_presence(old, &was, err);
    if (st)
        return st;
    *ret_n = was != ABSENT && !mapping_is_log(now->binding->mapping);
    /* Without an old row the key is as it was. */
    return *ret_n ? get_delete(old->is_sent ? old : now, &ret[0], err) : STATUS_OK;
}

/* The accesses from was + 1 to is: the event of the row, once for each. */
static enum status count_events(struct row_reader *now, int64_t was, int64_t is, struct event *ret,
                                size_t *ret_n, struct error *err)
{
    struct event e;
    enum status st = row_event(now, false, &e, err);
    if (st)
        return st;
    if (is - was > MAPPING_COUNTER_EVENTS)
        was = is - MAPPING_COUNTER_EVENTS;
    size_t n = 0;
    for (int64_t i = was + 1; i <= is; i++) {
        char *id = event_arena_alloc(now->arena, e.id.len + 24);
        if (!id)
            return error_set(err, STATUS_NOMEM, "could not allocate an id");
        ret[n] = e;
        ret[n].id.ptr = id;
        ret[n].id.len = (size_t)snprintf(id, e.id.len + 24, STR_FMT "#%" PRId64, STR_ARGS(e.id), i);
        st = event_check(&ret[n++], err);
        if (st)
            return st;
    }
    *ret_n = n;
    return STATUS_OK;
}

/* old is NULL for an INSERT. */
static enum status apply_counter(struct row_reader *now, struct row_reader *old, struct event *ret,
                                 size_t *ret_n, struct error *err)
{
    enum presence is = PRESENT;
    enum presence was_there = ABSENT;
    int64_t count = 0;
    int64_t was = 0;
    bool known = true;
    enum status st = row_presence(now, &is, err);
    if (!st && is != ABSENT)
        st = row_get_counter(now, &known, &count, err);
    if (st || count <= 0)
        return st;
    if (old)
        st = row_presence(old, &was_there, err);
    if (!st && was_there != ABSENT)
        st = row_get_counter(old, &known, &was, err);
    if (!st && (!known || was_there == PRESENCE_UNKNOWN))
        st = row_column_error(now, now->binding->mapping->counter, err, ROW_NOT_SENT);
    if (st)
        return st;
    was = was < 0 ? 0 : was;
    return count > was ? count_events(now, was, count, ret, ret_n, err) : STATUS_OK;
}

static enum status apply_change(enum row_change change, struct row_reader *now,
                                struct row_reader *old, struct event *ret, size_t *ret_n,
                                struct error *err)
{
    enum presence presence = PRESENT;
    enum status st = STATUS_OK;
    const struct mapping *m = now->binding->mapping;
    *ret_n = 0;
    if (*m->counter && change != CHANGE_DELETE)
        return apply_counter(now, change == CHANGE_UPDATE ? old : NULL, ret, ret_n, err);
    switch (change) {
    case CHANGE_UPDATE:
        return apply_update(now, old, ret, ret_n, err);
    case CHANGE_INSERT:
        st = row_presence(now, &presence, err);
        if (st || presence == ABSENT)
            return st;
        *ret_n = 1;
        return row_event(now, true, &ret[0], err);
    case CHANGE_DELETE:
        if (mapping_is_log(m))
            return STATUS_OK;
        st = row_presence(old, &presence, err);
        if (st || presence == ABSENT)
            return st;
        *ret_n = 1;
        return get_delete(old, &ret[0], err);
    }
    return error_set(err, STATUS_INVALID, "unknown kind of row change");
}

enum status mapping_apply(const struct mapping_binding *b, enum row_change change,
                          const struct tuple *old_tuple, const struct tuple *new_tuple,
                          struct event_arena *arena, struct event ret_events[MAPPING_EVENTS_MAX],
                          size_t *ret_n, struct error *err)
{
    assert(b && b->mapping);
    assert(change == CHANGE_DELETE ? old_tuple != NULL : new_tuple != NULL);
    struct row_reader now = {.binding = b, .row = new_tuple, .fallback = old_tuple, .arena = arena};
    struct row_reader old = {.binding = b,
                             .row = old_tuple ? old_tuple : new_tuple,
                             .is_old = true,
                             .is_sent = old_tuple != NULL,
                             .arena = arena};
    size_t n = 0;
    enum status st = apply_change(change, &now, &old, ret_events, &n, err);
    row_close(&now);
    row_close(&old);
    if (!st)
        *ret_n = n;
    return st;
}
