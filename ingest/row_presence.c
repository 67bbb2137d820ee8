/* Whether a mapping takes a row, and what its counter says. */
#include "ingest/row_reader.h"
#include "ingest/value.h"

#include <math.h>

static enum status has_value(const struct row_reader *r, int16_t column, enum presence *ret,
                             struct error *err)
{
    struct value v;
    enum status st = row_get_value(r, column, &v, err);
    if (st)
        return st;
    *ret = PRESENT;
    if (v.kind == VALUE_UNCHANGED) /* of a row as it is: a TOASTed value, so there is one */
        *ret = r->is_old ? PRESENCE_UNKNOWN : PRESENT;
    else if (v.kind == VALUE_NULL || str_equal(v.text, STR("f")) ||
             str_equal(v.text, STR("false")) || str_equal(v.text, STR("0")))
        *ret = ABSENT;
    return STATUS_OK;
}

/* One field: an enum map of one of its sources may ignore the row. */
static enum status field_presence(struct row_reader *r, enum mapping_field f, enum presence *ret,
                                  struct error *err)
{
    const struct mapping *m = r->binding->mapping;
    const struct mapping_source *s = mapping_source_first(m, f);
    struct str text;
    *ret = PRESENT;
    while (s && s->n_enum == 0 && !s->has_default)
        s = mapping_source_next(m, s);
    if (!s)
        return STATUS_OK;
    r->ignored = false;
    enum status st = row_get_text(r, f, TEXT_MAX, &text, err);
    if (r->ignored)
        *ret = ABSENT;
    else if (st && r->is_old) /* only as much of an old row as is needed has to be good */
        *ret = PRESENCE_UNKNOWN;
    return r->is_old ? STATUS_OK : st;
}

enum status row_presence(struct row_reader *r, enum presence *ret, struct error *err)
{
    const struct mapping_binding *b = r->binding;
    enum presence known = PRESENT;
    enum presence one = PRESENT;
    enum status st = STATUS_OK;
    if (b->soft_delete >= 0) {
        st = has_value(r, b->soft_delete, &one, err);
        known = one == PRESENT ? ABSENT : one == ABSENT ? PRESENT : one;
    }
    if (!st && b->only_if >= 0 && known != ABSENT) {
        st = has_value(r, b->only_if, &one, err);
        known = one == PRESENT ? known : one;
    }
    /* Before anything else of the row is looked at: what is none of ours may hold anything. */
    for (int f = 0; f < MAPPING_FIELD_COUNT && !st && known != ABSENT; f++) {
        st = field_presence(r, (enum mapping_field)f, &one, err);
        known = one == PRESENT ? known : one;
    }
    *ret = known;
    return st;
}

enum status row_get_counter(const struct row_reader *r, bool *ret_known, int64_t *ret,
                            struct error *err)
{
    const char *column = r->binding->mapping->counter;
    struct value v;
    double count = 0;
    enum status st = row_get_value(r, r->binding->counter, &v, err);
    *ret = 0;
    *ret_known = !st && v.kind != VALUE_UNCHANGED;
    if (st || v.kind != VALUE_TEXT)
        return st;
    const char *why = value_number(v.text, &count);
    if (!why && (count != floor(count) || fabs(count) > 0x1p53))
        why = "is not a whole number";
    if (why)
        return row_column_error(r, column, err, why);
    *ret = (int64_t)count;
    return STATUS_OK;
}
