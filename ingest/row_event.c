/* One row to one event, by type. */
#include "ingest/row_reader.h"
#include "ingest/value.h"

#include <math.h>

static enum status get_grade(struct row_reader *r, int *ret, struct error *err)
{
    double value = 0;
    enum status st = row_get_number(r, FIELD_GRADE, &value, err);
    *ret = 0;
    if (st || isnan(value))
        return st;
    if (value < 1 || value > 4 || value != floor(value))
        return row_invalid(r, FIELD_GRADE, err, "is not a whole number from 1 to 4");
    *ret = (int)value;
    return STATUS_OK;
}

/* Cut before anything looks at it: 1 GB of text costs no more than CONTENT_MAX. */
static enum status get_content(struct row_reader *r, bool needed, struct str *ret,
                               struct error *err)
{
    struct got got;
    enum status st = row_get(r, FIELD_CONTENT, &got, err);
    if (st)
        return st;
    *ret = STR_NULL;
    if (got.kind == GOT_UNCHANGED)
        return STATUS_OK;
    if (got.kind != GOT_NONE)
        return row_get_text(r, FIELD_CONTENT, CONTENT_MAX, ret, err);
    return needed ? row_invalid(r, FIELD_CONTENT, err, "is NULL where a value is needed")
                  : STATUS_OK;
}

static enum status get_embedding(struct row_reader *r, struct event_message *m, struct error *err)
{
    struct got got;
    enum status st = row_get(r, FIELD_EMBEDDING, &got, err);
    if (st || got.kind == GOT_NONE)
        return st;
    if (got.kind == GOT_UNCHANGED)
        return row_needs_old(r, FIELD_EMBEDDING, err);
    const char *why =
        got.kind == GOT_JSON
            ? value_embedding_json(got.json, r->arena, &m->embedding, &m->embedding_dims)
            : value_embedding(got.text, r->arena, &m->embedding, &m->embedding_dims);
    return why ? row_invalid(r, FIELD_EMBEDDING, err, why) : STATUS_OK;
}

static enum status get_traits(struct row_reader *r, struct event_trait *traits, uint32_t max,
                              uint32_t *ret_n, struct error *err)
{
    const json_t *json = NULL;
    enum status st = row_get_json(r, FIELD_TRAITS, &json, err);
    if (st || !json)
        return st;
    const char *why = value_traits(json, r->arena, traits, max, ret_n);
    return why ? row_invalid(r, FIELD_TRAITS, err, why) : STATUS_OK;
}

static enum status get_message(struct row_reader *r, struct event *e, struct error *err)
{
    static const char *const roles[] = {"user", "bot", NULL}; /* enum message_role */
    struct event_message *m = &e->u.message;
    int role = 0;
    e->type = EVENT_MESSAGE;
    enum status st = row_get_word(r, FIELD_ROLE, roles, true, &role, err);
    if (st)
        return st;
    m->role = (enum message_role)role;
    st = row_get_key(r, e, err);
    if (!st)
        st = row_get_at(r, &e->at_us, err);
    if (!st)
        st = get_content(r, true, &m->content, err);
    if (!st)
        st = row_get_label(r, FIELD_EMOTION, &m->emotion, err);
    if (!st)
        st = row_get_fraction(r, FIELD_EMOTION_CONFIDENCE, &m->emotion_confidence, err);
    if (!st)
        st = get_embedding(r, m, err);
    if (!st)
        st = row_get_label(r, FIELD_EMBEDDING_MODEL, &m->embedding_model, err);
    if (!st)
        st = get_traits(r, m->traits, LIMIT_TRAITS, &m->n_traits, err);
    return st ? st : row_get_label(r, FIELD_CHANNEL_ID, &m->channel_id, err);
}

static enum status get_memory(struct row_reader *r, struct event *e, struct error *err)
{
    static const char *const ops[] = {"create", "access", "delete", "pin", NULL};
    static const char *const outcomes[] = {"hit", "miss", NULL};
    struct event_memory *m = &e->u.memory;
    int op = 0;
    int outcome = 0;
    e->type = EVENT_MEMORY;
    enum status st = row_get_word(r, FIELD_OP, ops, true, &op, err);
    if (st)
        return st;
    m->op = (enum memory_op)op;
    st = row_get_key(r, e, err);
    if (!st)
        st = row_get_at(r, &e->at_us, err);
    if (!st)
        st = row_get_needed(r, FIELD_MEMORY_ID, &m->memory_id, err);
    if (!st)
        st = row_get_fraction(r, FIELD_SCORE, &m->score, err);
    if (!st)
        st = get_grade(r, &m->grade, err);
    if (!st)
        st = row_get_word(r, FIELD_OUTCOME, outcomes, false, &outcome, err);
    if (!st)
        st = row_get_fraction(r, FIELD_IMPORTANCE, &m->importance, err);
    if (!st)
        st = row_get_label(r, FIELD_MEMORY_TYPE, &m->memory_type, err);
    m->outcome = (enum memory_outcome)outcome;
    return st ? st : get_content(r, false, &m->content, err);
}

static enum status get_metric(struct row_reader *r, struct event *e, struct error *err)
{
    struct event_metric *m = &e->u.metric;
    const json_t *fields = NULL;
    const json_t *tags = NULL;
    double value = NAN;
    enum status st = row_get_needed(r, FIELD_ID, &e->id, err);
    if (!st)
        st = row_get_label(r, FIELD_USER_ID, &e->user_id, err);
    if (!st)
        st = row_get_bot(r, true, &e->bot_name, err);
    if (!st)
        st = row_get_at(r, &e->at_us, err);
    if (!st)
        st = row_get_needed(r, FIELD_MEASUREMENT, &m->measurement, err);
    if (!st)
        st = row_get_label(r, FIELD_FIELD, &m->fields[0].name, err);
    if (!st)
        st = row_get_number(r, FIELD_VALUE, &value, err);
    if (!st)
        st = row_get_json(r, FIELD_FIELDS, &fields, err);
    if (!st)
        st = row_get_json(r, FIELD_TAGS, &tags, err);
    if (st)
        return st;
    if (m->fields[0].name.ptr && !isnan(value)) {
        m->fields[0].value = value;
        m->n_fields = 1;
    }
    const char *why = fields ? value_fields(fields, r->arena, m) : NULL;
    if (why)
        return row_invalid(r, FIELD_FIELDS, err, why);
    why = tags ? value_tags(tags, r->arena, m) : NULL;
    return why ? row_invalid(r, FIELD_TAGS, err, why) : STATUS_OK;
}

static enum status get_outreach(struct row_reader *r, struct event *e, struct error *err)
{
    static const char *const ops[] = {"sent", "replied", "opted_out", NULL}; /* enum outreach_op */
    int op = 0;
    enum status st = row_get_word(r, FIELD_OP, ops, true, &op, err);
    if (st)
        return st;
    e->u.outreach.op = (enum outreach_op)op;
    st = row_get_key(r, e, err);
    if (!st)
        st = row_get_at(r, &e->at_us, err);
    return st ? st : row_get_label(r, FIELD_TOPIC, &e->u.outreach.topic, err);
}

static enum status get_character(struct row_reader *r, struct event *e, struct error *err)
{
    struct event_character *c = &e->u.character;
    uint32_t n = 0;
    double version = NAN;
    enum status st = row_get_needed(r, FIELD_ID, &e->id, err);
    if (!st)
        st = row_get_bot(r, true, &e->bot_name, err);
    if (!st)
        st = row_get_at(r, &e->at_us, err);
    if (!st)
        st = row_get_number(r, FIELD_VERSION, &version, err);
    if (!st && (version < 0 || version > 0x1p53 || version != floor(version)) && !isnan(version))
        st = row_invalid(r, FIELD_VERSION, err, "is not a whole number");
    const uint32_t max = sizeof(c->traits) / sizeof(c->traits[0]);
    if (!st)
        st = get_traits(r, c->traits, max, &n, err);
    if (st)
        return st;
    if (n > max)
        return row_invalid(r, FIELD_TRAITS, err, "has more traits than are taken (32)");
    c->n_traits = n;
    c->version = isnan(version) ? 0 : (int64_t)version;
    return STATUS_OK;
}

static enum status get_privacy(struct row_reader *r, struct event *e, struct error *err)
{
    static const char *const ops[] = {"erase", "optout", "optin", NULL}; /* enum privacy_op */
    int op = 0;
    enum status st = row_get_word(r, FIELD_OP, ops, true, &op, err);
    if (st)
        return st;
    e->u.privacy.op = (enum privacy_op)op;
    st = row_get_needed(r, FIELD_ID, &e->id, err);
    if (!st)
        st = row_get_needed(r, FIELD_USER_ID, &e->user_id, err);
    if (!st)
        st = row_get_bot(r, false, &e->bot_name, err);
    if (!st)
        st = row_get_at(r, &e->at_us, err);
    return st ? st : row_get_label(r, FIELD_SCOPE, &e->u.privacy.scope, err);
}

static enum status get_by_type(struct row_reader *r, struct event *e, struct error *err)
{
    switch (r->binding->mapping->type) {
    case EVENT_MESSAGE:
        return get_message(r, e, err);
    case EVENT_MEMORY:
        return get_memory(r, e, err);
    case EVENT_METRIC:
        return get_metric(r, e, err);
    case EVENT_OUTREACH:
        return get_outreach(r, e, err);
    case EVENT_CHARACTER:
        return get_character(r, e, err);
    case EVENT_PRIVACY:
        return get_privacy(r, e, err);
    case EVENT_MESSAGE_DELETED:
    case EVENT_DEAD_LETTER:
    case EVENT_REQUEST:
        break;
    }
    return error_set(err, STATUS_INVALID, "events of this type cannot be mapped");
}

enum status row_event(struct row_reader *r, bool whole, struct event *e, struct error *err)
{
    struct got content;
    *e = (struct event){.type = r->binding->mapping->type};
    enum status st = get_by_type(r, e, err);
    if (!st)
        st = row_get(r, FIELD_CONTENT, &content, err);
    if (st)
        return st;
    if (whole && content.kind == GOT_UNCHANGED)
        return row_needs_old(r, FIELD_CONTENT, err);
    if (e->type == EVENT_MESSAGE)
        e->u.message.op = whole ? MESSAGE_INSERT : MESSAGE_UPDATE;
    return event_check(e, err);
}
