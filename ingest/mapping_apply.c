/* One row change to events. The rules are in ingest/mapping.h. */
#include "ingest/row_reader.h"

#include <assert.h>
#include <math.h>

/*
 * Whether an enum map leaves this row out, as far as it was sent. Asked before anything else: a row
 * that is none of ours may hold anything.
 */
static enum status find_ignored(struct row_reader *r, bool *ret, struct error *err)
{
    r->ignored = false;
    for (int i = 0; i < MAPPING_FIELD_COUNT && !r->ignored; i++) {
        const struct mapping_source *s = &r->binding->mapping->fields[i];
        struct str text;
        if (!s->set || (s->n_enum == 0 && !s->has_default))
            continue;
        enum status st = row_get_text(r, (enum mapping_field)i, TEXT_MAX, &text, err);
        if (st)
            return st;
    }
    *ret = r->ignored;
    return STATUS_OK;
}

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

static enum status apply_update(struct row_reader *now, struct row_reader *old, struct event ret[2],
                                size_t *ret_n, struct error *err)
{
    const bool log = mapping_is_log(now->binding->mapping);
    bool ignored = false;
    bool moved = false;
    size_t n = 0;
    enum status st = find_ignored(now, &ignored, err);
    if (st)
        return st;
    if (ignored) {
        bool was_ignored = log;
        if (!log && old->row && find_ignored(old, &was_ignored, NULL) != STATUS_OK)
            was_ignored = false;
        *ret_n = !was_ignored;
        /* Without an old row the key is as it was. */
        return was_ignored ? STATUS_OK : get_delete(old->row ? old : now, &ret[0], err);
    }

    struct event e;
    st = row_event(now, false, &e, err);
    if (!st && old->row && !log)
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

static enum status apply_change(enum row_change change, struct row_reader *now,
                                struct row_reader *old, struct event ret[2], size_t *ret_n,
                                struct error *err)
{
    bool ignored = false;
    switch (change) {
    case CHANGE_UPDATE:
        return apply_update(now, old, ret, ret_n, err);
    case CHANGE_INSERT: {
        enum status st = find_ignored(now, &ignored, err);
        if (!st && !ignored)
            st = row_event(now, true, &ret[0], err);
        *ret_n = !ignored;
        return st;
    }
    case CHANGE_DELETE:
        if (find_ignored(old, &ignored, NULL) != STATUS_OK)
            ignored = false; /* only as much of the old row as its key is needed */
        ignored |= mapping_is_log(old->binding->mapping);
        *ret_n = !ignored;
        return ignored ? STATUS_OK : get_delete(old, &ret[0], err);
    }
    return error_set(err, STATUS_INVALID, "unknown kind of row change");
}

enum status mapping_apply(const struct mapping_binding *b, enum row_change change,
                          const struct tuple *old_tuple, const struct tuple *new_tuple,
                          struct event_arena *arena, struct event ret_events[2], size_t *ret_n,
                          struct error *err)
{
    assert(b && b->mapping);
    assert(change == CHANGE_DELETE ? old_tuple != NULL : new_tuple != NULL);
    struct row_reader now = {.binding = b, .row = new_tuple, .fallback = old_tuple, .arena = arena};
    struct row_reader old = {.binding = b, .row = old_tuple, .arena = arena};
    size_t n = 0;
    enum status st = apply_change(change, &now, &old, ret_events, &n, err);
    row_close(&now);
    row_close(&old);
    if (!st)
        *ret_n = n;
    return st;
}
