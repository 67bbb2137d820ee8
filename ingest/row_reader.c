/* Field by field from a row; see row_reader.h. */
#include "ingest/row_reader.h"

#include "ingest/template.h"
#include "ingest/value.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* How much of a value outside an enum map may be shown: such values are words, not private text. */
#define SHOWN_MAX 40

void row_close(struct row_reader *r)
{
    for (size_t i = 0; i < r->n_documents; i++)
        json_decref(r->documents[i].root);
    r->n_documents = 0;
}

/* What the field was read from, as far as reading came. */
static const struct mapping_source *source_of(const struct row_reader *r, enum mapping_field f)
{
    return r->used[f] ? r->used[f] : &r->binding->mapping->fields[f];
}

static const char *column_of(const struct mapping_source *s)
{
    return *s->template ? s->template : s->column;
}

enum status row_invalid(const struct row_reader *r, enum mapping_field f, struct error *err,
                        const char *why)
{
    const struct mapping *m = r->binding->mapping;
    const struct mapping_source *s = source_of(r, f);
    return error_set(err, STATUS_INVALID, "table \"%s.%s\", %s \"%s\"%s%s, field \"%s\": %s",
                     m->schema, m->table, *s->template ? "template" : "column", column_of(s),
                     *s->path ? ", path " : "", s->path, mapping_field_name(f), why);
}

enum status row_needs_old(const struct row_reader *r, enum mapping_field f, struct error *err)
{
    const struct mapping *m = r->binding->mapping;
    const struct mapping_source *s = source_of(r, f);
    return error_set(err, STATUS_INVALID,
                     "table \"%s.%s\", %s \"%s\", field \"%s\": " ROW_NOT_SENT
                     "; run: ALTER TABLE \"%s\".\"%s\" REPLICA IDENTITY FULL",
                     m->schema, m->table, *s->template ? "template" : "column", column_of(s),
                     mapping_field_name(f), m->schema, m->table);
}

enum status row_column_error(const struct row_reader *r, const char *column, struct error *err,
                             const char *why)
{
    const struct mapping *m = r->binding->mapping;
    if (strcmp(why, ROW_NOT_SENT) != 0)
        return error_set(err, STATUS_INVALID, "table \"%s.%s\", column \"%s\": %s", m->schema,
                         m->table, column, why);
    return error_set(err, STATUS_INVALID,
                     "table \"%s.%s\", column \"%s\": " ROW_NOT_SENT
                     "; run: ALTER TABLE \"%s\".\"%s\" REPLICA IDENTITY FULL",
                     m->schema, m->table, column, m->schema, m->table);
}

static enum status open_document(struct row_reader *r, enum mapping_field f, struct str text,
                                 const json_t **ret, struct error *err)
{
    for (size_t i = 0; i < r->n_documents; i++)
        if (r->documents[i].text == text.ptr) {
            *ret = r->documents[i].root;
            return STATUS_OK;
        }
    if (text.len > LIMIT_EVENT_BYTES)
        return row_invalid(r, f, err, "the JSON document is too large");
    json_t *root = value_json(text);
    if (!root)
        return row_invalid(r, f, err, "is not valid JSON");
    assert(r->n_documents < sizeof(r->documents) / sizeof(r->documents[0]));
    r->documents[r->n_documents++] = (struct document){text.ptr, root};
    *ret = root;
    return STATUS_OK;
}

enum status row_get_value(const struct row_reader *r, int16_t column, struct value *ret,
                          struct error *err)
{
    const struct mapping_binding *b = r->binding;
    assert(column >= 0);
    if (column >= r->row->n)
        return error_set(err, STATUS_PROTOCOL,
                         "a row of \"%s.%s\" has %u columns, fewer than its description",
                         b->mapping->schema, b->mapping->table, r->row->n);
    *ret = r->row->values[column];
    if (r->is_old && (b->has_identity ? !b->relation_columns[column].identity : !r->is_sent))
        ret->kind = VALUE_UNCHANGED;
    else if (ret->kind == VALUE_UNCHANGED && r->fallback && column < r->fallback->n &&
             r->fallback->values[column].kind == VALUE_TEXT)
        *ret = r->fallback->values[column];
    return STATUS_OK;
}

static enum status get_column(struct row_reader *r, enum mapping_field f,
                              const struct mapping_source *s, int16_t column, struct got *ret,
                              struct error *err)
{
    struct value v;
    enum status st = row_get_value(r, column, &v, err);
    if (st)
        return st;
    if (v.kind == VALUE_UNCHANGED) {
        ret->kind = GOT_UNCHANGED;
        return STATUS_OK;
    }
    if (v.kind == VALUE_NULL)
        return STATUS_OK;
    if (!*s->path) {
        *ret = (struct got){.kind = GOT_TEXT, .text = v.text};
        return STATUS_OK;
    }
    const json_t *root = NULL;
    st = open_document(r, f, v.text, &root, err);
    if (st)
        return st;
    ret->json = value_json_path(root, s->path);
    ret->kind = ret->json ? GOT_JSON : GOT_NONE;
    return STATUS_OK;
}

/* The columns of a template: *ret_kind is TEXT when all have a value. */
static enum status get_template_values(struct row_reader *r, const int16_t *columns,
                                       struct value values[MAPPING_TEMPLATE_COLUMNS],
                                       enum got_kind *ret_kind, struct error *err)
{
    *ret_kind = GOT_TEXT;
    for (size_t i = 0; i < MAPPING_TEMPLATE_COLUMNS && columns[i] >= 0; i++) {
        enum status st = row_get_value(r, columns[i], &values[i], err);
        if (st)
            return st;
        if (values[i].kind == VALUE_NULL)
            *ret_kind = GOT_NONE;
        else if (values[i].kind == VALUE_UNCHANGED && *ret_kind == GOT_TEXT)
            *ret_kind = GOT_UNCHANGED;
    }
    return STATUS_OK;
}

static enum status get_template(struct row_reader *r, const struct mapping_source *s,
                                const int16_t *columns, struct got *ret, struct error *err)
{
    struct value values[MAPPING_TEMPLATE_COLUMNS];
    enum status st = get_template_values(r, columns, values, &ret->kind, err);
    if (st || ret->kind != GOT_TEXT)
        return st;
    /* Content is the longest text there is; what is cut from an id leaves it too long. */
    size_t room = sizeof(s->template);
    for (size_t i = 0; i < MAPPING_TEMPLATE_COLUMNS && columns[i] >= 0; i++)
        room += values[i].text.len < CONTENT_MAX ? values[i].text.len : CONTENT_MAX;
    char *text = event_arena_alloc(r->arena, room);
    if (!text)
        return error_set(err, STATUS_NOMEM, "could not allocate the text of a template");
    const char *at = s->template;
    struct template_part part;
    size_t len = 0;
    size_t column = 0;
    while (template_next(&at, &part) == TEMPLATE_PART) {
        if (part.is_column)
            part.text = str_cut(values[column++].text, CONTENT_MAX);
        assert(part.text.len <= room - len);
        memcpy(text + len, part.text.ptr, part.text.len);
        len += part.text.len;
    }
    ret->text = (struct str){text, len};
    return STATUS_OK;
}

enum status row_get(struct row_reader *r, enum mapping_field f, struct got *ret, struct error *err)
{
    const struct mapping *m = r->binding->mapping;
    const struct mapping_source *s = mapping_source_first(m, f);
    *ret = (struct got){.kind = GOT_NONE};
    for (; s && ret->kind == GOT_NONE; s = mapping_source_next(m, s)) {
        const int16_t *columns = r->binding->columns[mapping_source_slot(m, s)];
        if (*s->constant) {
            *ret = (struct got){.kind = GOT_TEXT, .text = str_from(s->constant)};
            r->used[f] = s;
            return STATUS_OK;
        }
        if (columns[0] < 0)
            continue;
        r->used[f] = s;
        enum status st = *s->template ? get_template(r, s, columns, ret, err)
                                      : get_column(r, f, s, columns[0], ret, err);
        if (st)
            return st;
    }
    return STATUS_OK;
}

enum status row_get_json(struct row_reader *r, enum mapping_field f, const json_t **ret,
                         struct error *err)
{
    struct got got;
    *ret = NULL;
    enum status st = row_get(r, f, &got, err);
    if (st || got.kind == GOT_NONE)
        return st;
    if (got.kind == GOT_UNCHANGED)
        return row_needs_old(r, f, err);
    *ret = got.json;
    return got.kind == GOT_JSON ? STATUS_OK : open_document(r, f, got.text, ret, err);
}

static enum status map_enum(struct row_reader *r, enum mapping_field f, struct str *value,
                            struct error *err)
{
    const struct mapping_source *s = source_of(r, f);
    const char *to = s->has_default ? s->default_to : NULL;
    bool only_ignores = !s->has_default;
    for (size_t i = 0; i < s->n_enum; i++)
        if (str_equal(*value, str_from(s->enum_map[i].from))) {
            to = s->enum_map[i].to;
            break;
        }
    for (size_t i = 0; i < s->n_enum; i++)
        only_ignores &= !*s->enum_map[i].to;
    if (!to && only_ignores)
        return STATUS_OK;
    if (!to) {
        char why[SHOWN_MAX + 64];
        struct str shown = str_is_text(*value) ? str_cut(*value, SHOWN_MAX) : STR("(not text)");
        snprintf(why, sizeof(why), "the value \"" STR_FMT "\" is not in the enum map",
                 STR_ARGS(shown));
        return row_invalid(r, f, err, why);
    }
    if (!*to)
        r->ignored = true;
    *value = str_from(to);
    return STATUS_OK;
}

enum status row_get_text(struct row_reader *r, enum mapping_field f, size_t max, struct str *ret,
                         struct error *err)
{
    struct got got;
    enum status st = row_get(r, f, &got, err);
    if (st)
        return st;
    const struct mapping_source *s = source_of(r, f);
    *ret = STR_NULL;
    if (got.kind == GOT_NONE)
        return STATUS_OK;
    if (got.kind == GOT_UNCHANGED)
        return row_needs_old(r, f, err);
    struct str text = got.text;
    if (got.kind == GOT_JSON) {
        const char *why = value_json_text(got.json, r->arena, max, &text);
        if (why)
            return row_invalid(r, f, err, why);
    }
    if (s->n_enum > 0 || s->has_default) {
        st = map_enum(r, f, &text, err);
        if (st)
            return st;
    }
    text = str_cut(text, max);
    if (!str_is_text(text))
        return row_invalid(r, f, err, "is not valid UTF-8");
    *ret = text;
    return STATUS_OK;
}

enum status row_get_needed(struct row_reader *r, enum mapping_field f, struct str *ret,
                           struct error *err)
{
    enum status st = row_get_text(r, f, TEXT_MAX, ret, err);
    if (st)
        return st;
    if (!ret->ptr)
        return row_invalid(r, f, err, "is NULL where a value is needed");
    if (ret->len == 0)
        return row_invalid(r, f, err, "is empty where a value is needed");
    if (ret->len > LIMIT_ID_BYTES)
        return row_invalid(r, f, err, "is longer than an id may be (512 bytes)");
    return STATUS_OK;
}

enum status row_get_label(struct row_reader *r, enum mapping_field f, struct str *ret,
                          struct error *err)
{
    enum status st = row_get_text(r, f, TEXT_MAX, ret, err);
    if (st)
        return st;
    if (ret->len > LIMIT_ID_BYTES)
        return row_invalid(r, f, err, "is longer than a label may be (512 bytes)");
    if (ret->len == 0)
        *ret = STR_NULL;
    return STATUS_OK;
}

enum status row_get_number(struct row_reader *r, enum mapping_field f, double *ret,
                           struct error *err)
{
    struct str text;
    enum status st = row_get_text(r, f, TEXT_MAX, &text, err);
    *ret = NAN;
    if (st || !text.ptr)
        return st;
    const char *why = value_number(text, ret);
    return why ? row_invalid(r, f, err, why) : STATUS_OK;
}

enum status row_get_fraction(struct row_reader *r, enum mapping_field f, double *ret,
                             struct error *err)
{
    enum status st = row_get_number(r, f, ret, err);
    if (!st && (*ret < 0 || *ret > 1))
        return row_invalid(r, f, err, "is not between 0 and 1");
    return st;
}

enum status row_get_bot(struct row_reader *r, bool needed, struct str *ret, struct error *err)
{
    struct str raw;
    *ret = STR_NULL;
    enum status st = needed ? row_get_needed(r, FIELD_BOT_NAME, &raw, err)
                            : row_get_label(r, FIELD_BOT_NAME, &raw, err);
    if (st || !raw.ptr)
        return st;
    char *name = event_arena_alloc(r->arena, LIMIT_ID_BYTES);
    if (!name)
        return error_set(err, STATUS_NOMEM, "could not allocate a bot name");
    size_t len = event_bot_name(raw, name);
    if (len == 0)
        return row_invalid(r, FIELD_BOT_NAME, err, "has no letters or digits");
    *ret = (struct str){name, len};
    return STATUS_OK;
}

enum status row_get_key(struct row_reader *r, struct event *e, struct error *err)
{
    enum status st = row_get_needed(r, FIELD_ID, &e->id, err);
    if (!st)
        st = row_get_needed(r, FIELD_USER_ID, &e->user_id, err);
    return st ? st : row_get_bot(r, true, &e->bot_name, err);
}

enum status row_get_at(struct row_reader *r, int64_t *ret, struct error *err)
{
    struct str text;
    enum status st = row_get_text(r, FIELD_AT, TEXT_MAX, &text, err);
    if (st)
        return st;
    if (!text.ptr)
        return row_invalid(r, FIELD_AT, err, "is NULL where a value is needed");
    const struct mapping_source *s = source_of(r, FIELD_AT);
    int32_t zone_s = 0;
    bool has_zone = *s->zone && value_zone(str_from(s->zone), &zone_s);
    const char *why = value_time(text, has_zone ? TIME_NAIVE_UTC : s->time_unit, zone_s, ret);
    if (why)
        return row_invalid(r, FIELD_AT, err, why);
    *ret += s->plus_us;
    return STATUS_OK;
}

enum status row_get_word(struct row_reader *r, enum mapping_field f, const char *const words[],
                         bool needed, int *ret, struct error *err)
{
    struct str text;
    enum status st = needed ? row_get_needed(r, f, &text, err) : row_get_label(r, f, &text, err);
    if (st)
        return st;
    *ret = 0;
    if (!text.ptr)
        return STATUS_OK;
    for (int i = 0; words[i]; i++)
        if (str_equal(text, str_from(words[i]))) {
            *ret = i + 1;
            return STATUS_OK;
        }
    char why[SHOWN_MAX + 64];
    struct str shown = str_cut(text, SHOWN_MAX);
    snprintf(why, sizeof(why), "unknown value \"" STR_FMT "\"", STR_ARGS(shown));
    return row_invalid(r, f, err, why);
}
