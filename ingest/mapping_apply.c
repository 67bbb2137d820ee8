/* One row change to events. The rules are in ingest/mapping.h. */
#include "ingest/mapping.h"
#include "ingest/value.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* Ids are compared with this bound afterwards; a cut one is still too long. */
#define TEXT_MAX (LIMIT_ID_BYTES + 8)
/* Just beyond what the features look at: they see that there was more, and flag it. */
#define CONTENT_MAX (LIMIT_CONTENT_BYTES + 8)
/* How much of a value outside an enum map may be shown: such values are words, not private text. */
#define SHOWN_MAX 40

/* A JSON column parsed once per row, however many fields read from it. */
struct document {
    const char *text; /* identity: where the value lies */
    json_t *root;
};

struct row_reader {
    const struct mapping_binding *binding;
    const struct tuple *row;      /* the row to read */
    const struct tuple *fallback; /* the old row: values that were not sent again; may be NULL */
    struct event_arena *arena;
    bool ignored; /* an enum map said that this row is none of ours */
    size_t n_documents;
    struct document documents[2 * MAPPING_FIELD_COUNT];
};

static void reader_close(struct row_reader *r)
{
    for (size_t i = 0; i < r->n_documents; i++)
        json_decref(r->documents[i].root);
    r->n_documents = 0;
}

/* What a source holds for this row. */
enum got_kind { GOT_NONE, GOT_UNCHANGED, GOT_TEXT, GOT_JSON };
struct got {
    enum got_kind kind;
    struct str text;
    const json_t *json; /* borrowed from a document of the reader */
};

static enum status invalid(const struct row_reader *r, enum mapping_field f, struct error *err,
                           const char *why)
{
    const struct mapping *m = r->binding->mapping;
    const struct mapping_source *s = &m->fields[f];
    return error_set(err, STATUS_INVALID, "table \"%s.%s\", column \"%s\"%s%s, field \"%s\": %s",
                     m->schema, m->table, s->column, *s->path ? ", path " : "", s->path,
                     mapping_field_name(f), why);
}

static enum status needs_old_row(const struct row_reader *r, enum mapping_field f,
                                 struct error *err)
{
    const struct mapping *m = r->binding->mapping;
    return error_set(err, STATUS_INVALID,
                     "table \"%s.%s\", column \"%s\", field \"%s\": the value was not sent with "
                     "the change; run: ALTER TABLE \"%s\".\"%s\" REPLICA IDENTITY FULL",
                     m->schema, m->table, m->fields[f].column, mapping_field_name(f), m->schema,
                     m->table);
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
        return invalid(r, f, err, "the JSON document is too large");
    json_t *root = value_json(text);
    if (!root)
        return invalid(r, f, err, "is not valid JSON");
    assert(r->n_documents < sizeof(r->documents) / sizeof(r->documents[0]));
    r->documents[r->n_documents++] = (struct document){text.ptr, root};
    *ret = root;
    return STATUS_OK;
}

static enum status get(struct row_reader *r, enum mapping_field f, struct got *ret,
                       struct error *err)
{
    const struct mapping_source *s = &r->binding->mapping->fields[f];
    *ret = (struct got){.kind = GOT_NONE};
    if (!s->set)
        return STATUS_OK;
    if (!*s->column) {
        *ret = (struct got){.kind = GOT_TEXT, .text = str_from(s->constant)};
        return STATUS_OK;
    }
    int column = r->binding->column_index[f];
    assert(column >= 0);
    if (column >= r->row->n)
        return error_set(err, STATUS_PROTOCOL,
                         "a row of \"%s.%s\" has %u columns, fewer than its description",
                         r->binding->mapping->schema, r->binding->mapping->table, r->row->n);

    const struct value *v = &r->row->values[column];
    if (v->kind == VALUE_UNCHANGED && r->fallback && column < r->fallback->n &&
        r->fallback->values[column].kind == VALUE_TEXT)
        v = &r->fallback->values[column];
    if (v->kind == VALUE_UNCHANGED) {
        ret->kind = GOT_UNCHANGED;
        return STATUS_OK;
    }
    if (v->kind == VALUE_NULL)
        return STATUS_OK;
    if (!*s->path) {
        *ret = (struct got){.kind = GOT_TEXT, .text = v->text};
        return STATUS_OK;
    }
    const json_t *root = NULL;
    enum status st = open_document(r, f, v->text, &root, err);
    if (st)
        return st;
    ret->json = value_json_path(root, s->path);
    ret->kind = ret->json ? GOT_JSON : GOT_NONE;
    return STATUS_OK;
}

static enum status map_enum(struct row_reader *r, enum mapping_field f, struct str *value,
                            struct error *err)
{
    const struct mapping_source *s = &r->binding->mapping->fields[f];
    const char *to = s->has_default ? s->default_to : NULL;
    for (size_t i = 0; i < s->n_enum; i++)
        if (str_equal(*value, str_from(s->enum_map[i].from))) {
            to = s->enum_map[i].to;
            break;
        }
    if (!to) {
        char why[SHOWN_MAX + 64];
        struct str shown = str_is_text(*value) ? str_cut(*value, SHOWN_MAX) : STR("(not text)");
        snprintf(why, sizeof(why), "the value \"" STR_FMT "\" is not in the enum map",
                 STR_ARGS(shown));
        return invalid(r, f, err, why);
    }
    if (!*to)
        r->ignored = true;
    *value = str_from(to);
    return STATUS_OK;
}

/*
 * A scalar field as text, enum map applied, at most max bytes of it looked at; STR_NULL when there
 * is none. A value that was not sent is an error: leaving it out would change what is known.
 */
static enum status get_text(struct row_reader *r, enum mapping_field f, size_t max, struct str *ret,
                            struct error *err)
{
    const struct mapping_source *s = &r->binding->mapping->fields[f];
    struct got got;
    enum status st = get(r, f, &got, err);
    if (st)
        return st;
    *ret = STR_NULL;
    if (got.kind == GOT_NONE)
        return STATUS_OK;
    if (got.kind == GOT_UNCHANGED)
        return needs_old_row(r, f, err);
    struct str text = got.text;
    if (got.kind == GOT_JSON) {
        const char *why = value_json_text(got.json, r->arena, max, &text);
        if (why)
            return invalid(r, f, err, why);
    }
    if (s->n_enum > 0 || s->has_default) {
        st = map_enum(r, f, &text, err);
        if (st)
            return st;
    }
    text = str_cut(text, max);
    if (!str_is_text(text))
        return invalid(r, f, err, "is not valid UTF-8");
    *ret = text;
    return STATUS_OK;
}

static enum status get_needed(struct row_reader *r, enum mapping_field f, struct str *ret,
                              struct error *err)
{
    enum status st = get_text(r, f, TEXT_MAX, ret, err);
    if (st)
        return st;
    if (!ret->ptr)
        return invalid(r, f, err, "is NULL where a value is needed");
    if (ret->len == 0)
        return invalid(r, f, err, "is empty where a value is needed");
    if (ret->len > LIMIT_ID_BYTES)
        return invalid(r, f, err, "is longer than an id may be (512 bytes)");
    return STATUS_OK;
}

/* A short text that may be absent; empty counts as absent. */
static enum status get_label(struct row_reader *r, enum mapping_field f, struct str *ret,
                             struct error *err)
{
    enum status st = get_text(r, f, TEXT_MAX, ret, err);
    if (st)
        return st;
    if (ret->len > LIMIT_ID_BYTES)
        return invalid(r, f, err, "is longer than a label may be (512 bytes)");
    if (ret->len == 0)
        *ret = STR_NULL;
    return STATUS_OK;
}

/* A number in [0,1], NaN when absent. */
static enum status get_fraction(struct row_reader *r, enum mapping_field f, double *ret,
                                struct error *err)
{
    struct str text;
    enum status st = get_text(r, f, TEXT_MAX, &text, err);
    if (st)
        return st;
    *ret = NAN;
    if (!text.ptr)
        return STATUS_OK;
    double value = 0;
    const char *why = value_number(text, &value);
    if (why)
        return invalid(r, f, err, why);
    if (value < 0 || value > 1)
        return invalid(r, f, err, "is not between 0 and 1");
    *ret = value;
    return STATUS_OK;
}

static enum status get_grade(struct row_reader *r, int *ret, struct error *err)
{
    struct str text;
    enum status st = get_text(r, FIELD_GRADE, TEXT_MAX, &text, err);
    if (st)
        return st;
    *ret = 0;
    if (!text.ptr)
        return STATUS_OK;
    double value = 0;
    const char *why = value_number(text, &value);
    if (why)
        return invalid(r, FIELD_GRADE, err, why);
    if (value < 1 || value > 4 || value != floor(value))
        return invalid(r, FIELD_GRADE, err, "is not a whole number from 1 to 4");
    *ret = (int)value;
    return STATUS_OK;
}

/* Cut before anything looks at it: 1 GB of text costs no more than CONTENT_MAX. */
static enum status get_content(struct row_reader *r, bool needed, struct str *ret,
                               struct error *err)
{
    struct got got;
    enum status st = get(r, FIELD_CONTENT, &got, err);
    if (st)
        return st;
    *ret = STR_NULL;
    if (got.kind == GOT_UNCHANGED)
        return STATUS_OK;
    if (got.kind != GOT_NONE)
        return get_text(r, FIELD_CONTENT, CONTENT_MAX, ret, err);
    return needed ? invalid(r, FIELD_CONTENT, err, "is NULL where a value is needed") : STATUS_OK;
}

static enum status get_embedding(struct row_reader *r, struct event_message *m, struct error *err)
{
    struct got got;
    enum status st = get(r, FIELD_EMBEDDING, &got, err);
    if (st || got.kind == GOT_NONE)
        return st;
    if (got.kind == GOT_UNCHANGED)
        return needs_old_row(r, FIELD_EMBEDDING, err);
    const char *why =
        got.kind == GOT_JSON
            ? value_embedding_json(got.json, r->arena, &m->embedding, &m->embedding_dims)
            : value_embedding(got.text, r->arena, &m->embedding, &m->embedding_dims);
    return why ? invalid(r, FIELD_EMBEDDING, err, why) : STATUS_OK;
}

static enum status get_traits(struct row_reader *r, struct event_message *m, struct error *err)
{
    struct got got;
    enum status st = get(r, FIELD_TRAITS, &got, err);
    if (st || got.kind == GOT_NONE)
        return st;
    if (got.kind == GOT_UNCHANGED)
        return needs_old_row(r, FIELD_TRAITS, err);
    if (got.kind == GOT_TEXT) {
        st = open_document(r, FIELD_TRAITS, got.text, &got.json, err);
        if (st)
            return st;
    }
    const char *why = value_traits(got.json, r->arena, m->traits, &m->n_traits);
    return why ? invalid(r, FIELD_TRAITS, err, why) : STATUS_OK;
}

static enum status get_bot(struct row_reader *r, struct str *ret, struct error *err)
{
    struct str raw;
    enum status st = get_needed(r, FIELD_BOT_NAME, &raw, err);
    if (st)
        return st;
    char *name = event_arena_alloc(r->arena, LIMIT_ID_BYTES);
    if (!name)
        return error_set(err, STATUS_NOMEM, "could not allocate a bot name");
    size_t len = event_bot_name(raw, name);
    if (len == 0)
        return invalid(r, FIELD_BOT_NAME, err, "has no letters or digits");
    *ret = (struct str){name, len};
    return STATUS_OK;
}

static enum status get_key(struct row_reader *r, struct event *e, struct error *err)
{
    enum status st = get_needed(r, FIELD_ID, &e->id, err);
    if (!st)
        st = get_needed(r, FIELD_USER_ID, &e->user_id, err);
    return st ? st : get_bot(r, &e->bot_name, err);
}

static enum status get_at(struct row_reader *r, int64_t *ret, struct error *err)
{
    struct str text;
    enum status st = get_text(r, FIELD_AT, TEXT_MAX, &text, err);
    if (st)
        return st;
    if (!text.ptr)
        return invalid(r, FIELD_AT, err, "is NULL where a value is needed");
    const char *why = value_time(text, r->binding->mapping->fields[FIELD_AT].time_unit, ret);
    return why ? invalid(r, FIELD_AT, err, why) : STATUS_OK;
}

/* One of our own words; index in words plus 1. 0 when absent. */
static enum status get_word(struct row_reader *r, enum mapping_field f, const char *const words[],
                            bool needed, int *ret, struct error *err)
{
    struct str text;
    enum status st = needed ? get_needed(r, f, &text, err) : get_label(r, f, &text, err);
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
    return invalid(r, f, err, why);
}

static enum status get_message(struct row_reader *r, struct event *e, struct error *err)
{
    static const char *const roles[] = {"user", "bot", NULL}; /* enum message_role */
    struct event_message *m = &e->u.message;
    int role = 0;
    e->type = EVENT_MESSAGE;
    enum status st = get_word(r, FIELD_ROLE, roles, true, &role, err);
    if (st)
        return st;
    m->role = (enum message_role)role;
    st = get_key(r, e, err);
    if (!st)
        st = get_at(r, &e->at_us, err);
    if (!st)
        st = get_content(r, true, &m->content, err);
    if (!st)
        st = get_label(r, FIELD_EMOTION, &m->emotion, err);
    if (!st)
        st = get_fraction(r, FIELD_EMOTION_CONFIDENCE, &m->emotion_confidence, err);
    if (!st)
        st = get_embedding(r, m, err);
    if (!st)
        st = get_label(r, FIELD_EMBEDDING_MODEL, &m->embedding_model, err);
    if (!st)
        st = get_traits(r, m, err);
    return st ? st : get_label(r, FIELD_CHANNEL_ID, &m->channel_id, err);
}

static enum status get_memory(struct row_reader *r, struct event *e, struct error *err)
{
    static const char *const ops[] = {"create", "access", "delete", "pin", NULL};
    static const char *const outcomes[] = {"hit", "miss", NULL};
    struct event_memory *m = &e->u.memory;
    int op = 0;
    int outcome = 0;
    e->type = EVENT_MEMORY;
    enum status st = get_word(r, FIELD_OP, ops, true, &op, err);
    if (st)
        return st;
    m->op = (enum memory_op)op;
    st = get_key(r, e, err);
    if (!st)
        st = get_at(r, &e->at_us, err);
    if (!st)
        st = get_needed(r, FIELD_MEMORY_ID, &m->memory_id, err);
    if (!st)
        st = get_fraction(r, FIELD_SCORE, &m->score, err);
    if (!st)
        st = get_grade(r, &m->grade, err);
    if (!st)
        st = get_word(r, FIELD_OUTCOME, outcomes, false, &outcome, err);
    if (!st)
        st = get_fraction(r, FIELD_IMPORTANCE, &m->importance, err);
    if (!st)
        st = get_label(r, FIELD_MEMORY_TYPE, &m->memory_type, err);
    m->outcome = (enum memory_outcome)outcome;
    return st ? st : get_content(r, false, &m->content, err);
}

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
        enum status st = get_text(r, (enum mapping_field)i, TEXT_MAX, &text, err);
        if (st)
            return st;
    }
    *ret = r->ignored;
    return STATUS_OK;
}

/* The whole row as one event. Content may only be missing when the row was there before. */
static enum status get_event(struct row_reader *r, bool whole, struct event *e, struct error *err)
{
    struct got content;
    *e = (struct event){.type = EVENT_MESSAGE};
    enum status st =
        r->binding->mapping->type == EVENT_MEMORY ? get_memory(r, e, err) : get_message(r, e, err);
    if (!st)
        st = get(r, FIELD_CONTENT, &content, err);
    if (st)
        return st;
    if (whole && content.kind == GOT_UNCHANGED)
        return needs_old_row(r, FIELD_CONTENT, err);
    if (e->type == EVENT_MESSAGE)
        e->u.message.op = whole ? MESSAGE_INSERT : MESSAGE_UPDATE;
    return event_check(e, err);
}

/* Rows of a log of memory events are entries, not memories. */
static bool is_memory_log(const struct mapping *m)
{
    return m->type == EVENT_MEMORY && strcmp(m->fields[FIELD_OP].constant, "create") != 0;
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
        enum status st = get(r, key[i], &got, err);
        if (st)
            return st;
        if (got.kind == GOT_NONE || got.kind == GOT_UNCHANGED)
            return needs_old_row(r, key[i], err);
    }
    *e = (struct event){.type = EVENT_MESSAGE_DELETED};
    enum status st = get_key(r, e, err);
    if (!st && r->binding->mapping->type == EVENT_MEMORY) {
        e->type = EVENT_MEMORY;
        e->u.memory = (struct event_memory){.op = MEMORY_DELETE, .score = NAN, .importance = NAN};
        st = get_needed(r, FIELD_MEMORY_ID, &e->u.memory.memory_id, err);
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
        enum status st = get(old, fields[i], &got, err);
        if (st)
            return st;
        if (got.kind == GOT_NONE || got.kind == GOT_UNCHANGED)
            continue;
        st = fields[i] == FIELD_BOT_NAME ? get_bot(old, &was, err)
                                         : get_needed(old, fields[i], &was, err);
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
    const bool is_log = is_memory_log(now->binding->mapping);
    bool ignored = false;
    bool moved = false;
    size_t n = 0;
    enum status st = find_ignored(now, &ignored, err);
    if (st)
        return st;
    if (ignored) {
        bool was_ignored = is_log;
        if (!is_log && old->row && find_ignored(old, &was_ignored, NULL) != STATUS_OK)
            was_ignored = false;
        *ret_n = !was_ignored;
        /* Without an old row the key is as it was. */
        return was_ignored ? STATUS_OK : get_delete(old->row ? old : now, &ret[0], err);
    }

    struct event e;
    st = get_event(now, false, &e, err);
    if (!st && old->row && !is_log)
        st = key_moved(old, &e, &moved, err);
    if (!st && moved) {
        st = get_delete(old, &ret[n++], err);
        if (!st)
            st = get_event(now, true, &e, err);
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
            st = get_event(now, true, &ret[0], err);
        *ret_n = !ignored;
        return st;
    }
    case CHANGE_DELETE:
        if (find_ignored(old, &ignored, NULL) != STATUS_OK)
            ignored = false; /* only as much of the old row as its key is needed */
        ignored |= is_memory_log(old->binding->mapping);
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
    reader_close(&now);
    reader_close(&old);
    if (!st)
        *ret_n = n;
    return st;
}
