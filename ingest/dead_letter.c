#include "ingest/dead_letter.h"

#include "core/limits.h"

#include <stdio.h>
#include <string.h>

static enum status render_bytes(struct str s, struct buf *out)
{
    enum status st = STATUS_OK;
    for (size_t i = 0; i < s.len && !st; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        st = c >= 0x20 && c < 0x7F && c != '\\' ? buf_append(out, &s.ptr[i], 1)
                                                : buf_printf(out, "\\x%02x", c);
    }
    return st;
}

static enum status render_value(const char *column, const struct value *v, struct buf *out)
{
    if (v->kind == VALUE_NULL)
        return buf_printf(out, " %s=null", column);
    if (v->kind == VALUE_UNCHANGED)
        return buf_printf(out, " %s=unchanged", column);
    enum status st = buf_printf(out, " %s(%zu)=", column, v->text.len);
    size_t shown = v->text.len < DEAD_LETTER_VALUE_BYTES ? v->text.len : DEAD_LETTER_VALUE_BYTES;
    return st ? st : render_bytes((struct str){v->text.ptr, shown}, out);
}

static enum status render_tuple(const char *label, const struct relation *rel,
                                const struct tuple *tuple, struct buf *out)
{
    /* The longest part: name, length, and every shown byte as \xNN. */
    const size_t part = 64 + 32 + 4 * DEAD_LETTER_VALUE_BYTES;
    enum status st = buf_append_str(out, str_from(label));
    for (uint16_t i = 0; i < tuple->n && !st; i++) {
        if (out->len + part + 8 > LIMIT_DEAD_LETTER_BYTES)
            return buf_append_str(out, STR(" ..."));
        st = render_value(i < rel->n_columns ? rel->columns[i].name : "?", &tuple->values[i], out);
    }
    return st;
}

enum status dead_letter_render(const struct relation *rel, const struct tuple *old_tuple,
                               const struct tuple *new_tuple, struct buf *out)
{
    enum status st = STATUS_OK;
    if (old_tuple && old_tuple->n > 0)
        st = render_tuple("old:", rel, old_tuple, out);
    if (!st && new_tuple && new_tuple->n > 0)
        st = render_tuple(out->len > 0 ? " new:" : "new:", rel, new_tuple, out);
    return st;
}

enum status dead_letter_event_of(const char *where, const char *reason, struct position position,
                                 int64_t at_us, struct str bytes, struct event_arena *arena,
                                 struct event *ret, struct error *err)
{
    struct str place = str_from(where);
    struct str why = str_from(reason);
    char *texts = event_arena_alloc(arena, place.len + why.len + 1);
    char *id = event_arena_alloc(arena, 64);
    if (!texts || !id)
        return error_set(err, STATUS_NOMEM, "could not allocate a dead letter");
    memcpy(texts, place.ptr, place.len);
    memcpy(texts + place.len, why.ptr, why.len);
    int id_len = snprintf(id, 64, LSN_FMT "/%" PRIu64, LSN_ARGS(position.lsn), position.seq);

    *ret = (struct event){.type = EVENT_DEAD_LETTER,
                          .id = {id, (size_t)id_len},
                          .user_id = STR(""),
                          .bot_name = STR(""),
                          .at_us = at_us};
    ret->u.dead_letter.where = (struct str){texts, place.len};
    ret->u.dead_letter.reason = (struct str){texts + place.len, why.len};
    ret->u.dead_letter.bytes = bytes.ptr ? bytes : STR("");
    return STATUS_OK;
}

enum status dead_letter_event(const struct relation *rel, const char *reason,
                              struct position position, int64_t at_us, struct str bytes,
                              struct event_arena *arena, struct event *ret, struct error *err)
{
    size_t len = strlen(rel->schema) + strlen(rel->name) + 2;
    char *where = event_arena_alloc(arena, len);
    if (!where)
        return error_set(err, STATUS_NOMEM, "could not allocate a dead letter");
    snprintf(where, len, "%s.%s", rel->schema, rel->name);
    return dead_letter_event_of(where, reason, position, at_us, bytes, arena, ret, err);
}
