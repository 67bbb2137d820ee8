#include "core/cleanup.h"
#include "core/clock.h"
#include "core/event.h"
#include "core/event_names.h"
#include "core/jsonw.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void put_string(struct jsonw *w, const char *key, struct str s)
{
    if (!s.ptr)
        return;
    jsonw_key(w, key);
    jsonw_string(w, s);
}

static void put_number(struct jsonw *w, const char *key, double v)
{
    if (isnan(v))
        return;
    jsonw_key(w, key);
    jsonw_double(w, v);
}

static void put_word(struct jsonw *w, const char *key, const struct event_words *words, int value)
{
    assert(value >= 0 && value < words->count);
    if (!words->words[value])
        return;
    put_string(w, key, str_from(words->words[value]));
}

static void put_type(struct jsonw *w, const struct event *e, const char *type)
{
    put_string(w, "type", str_from(type));
    if (e->user_id.len)
        put_string(w, "user_id", e->user_id);
}

static void put_traits(struct jsonw *w, const struct event_message *m)
{
    if (m->n_traits > LIMIT_TRAITS) {
        jsonw_key(w, "trait_count");
        jsonw_int(w, m->n_traits);
    }
    if (m->n_traits == 0)
        return;
    jsonw_key(w, "traits");
    jsonw_array_begin(w);
    for (uint32_t i = 0; i < m->n_traits && i < LIMIT_TRAITS; i++) {
        jsonw_object_begin(w);
        put_string(w, "name", m->traits[i].name);
        put_number(w, "weight", m->traits[i].weight);
        jsonw_object_end(w);
    }
    jsonw_array_end(w);
}

static void put_message(struct jsonw *w, const struct event *e)
{
    const struct event_message *m = &e->u.message;
    put_string(w, "channel_id", m->channel_id);
    put_string(w, "content", m->content);
    if (m->embedding) {
        jsonw_key(w, "embedding");
        jsonw_array_begin(w);
        for (uint32_t i = 0; i < m->embedding_dims; i++)
            jsonw_double(w, (double)m->embedding[i]);
        jsonw_array_end(w);
    }
    put_string(w, "embedding_model", m->embedding_model);
    put_string(w, "emotion", m->emotion);
    put_number(w, "emotion_confidence", m->emotion_confidence);
    put_string(w, "id", e->id);
    put_word(w, "role", &words_role, (int)m->role);
    put_traits(w, m);
    put_type(w, e, m->op == MESSAGE_UPDATE ? "message_updated" : "message");
}

static void put_memory(struct jsonw *w, const struct event *e)
{
    const struct event_memory *m = &e->u.memory;
    put_string(w, "content", m->content);
    if (m->grade) {
        jsonw_key(w, "grade");
        jsonw_int(w, m->grade);
    }
    put_string(w, "id", e->id);
    put_number(w, "importance", m->importance);
    put_string(w, "memory_id", m->memory_id);
    put_string(w, "memory_type", m->memory_type);
    put_word(w, "op", &words_memory_op, (int)m->op);
    put_word(w, "outcome", &words_outcome, (int)m->outcome);
    put_number(w, "score", m->score);
    put_type(w, e, "memory");
}

/* Members of an object with foreign names, which come in any order. */
struct pair {
    struct str name;
    struct str text; /* or, when ptr is NULL: */
    double number;
};

static int pair_compare(const void *a, const void *b)
{
    const struct pair *x = a;
    const struct pair *y = b;
    size_t n = x->name.len < y->name.len ? x->name.len : y->name.len;
    int order = memcmp(x->name.ptr, y->name.ptr, n);
    if (order != 0)
        return order;
    return x->name.len == y->name.len ? 0 : x->name.len < y->name.len ? -1 : 1;
}

static void put_pairs(struct jsonw *w, const char *key, struct pair *pairs, size_t n)
{
    qsort(pairs, n, sizeof(pairs[0]), pair_compare);
    jsonw_key(w, key);
    jsonw_object_begin(w);
    for (size_t i = 0; i < n; i++) {
        jsonw_key_str(w, pairs[i].name);
        if (pairs[i].text.ptr)
            jsonw_string(w, pairs[i].text);
        else
            jsonw_double(w, pairs[i].number);
    }
    jsonw_object_end(w);
}

#define PAIRS_MAX 32

_Static_assert(sizeof(((struct event_metric *)0)->fields) <= PAIRS_MAX * sizeof(struct event_field),
               "every field has a place");
_Static_assert(sizeof(((struct event_character *)0)->traits) <=
                   PAIRS_MAX * sizeof(struct event_trait),
               "every trait has a place");

static void put_metric(struct jsonw *w, const struct event *e)
{
    const struct event_metric *m = &e->u.metric;
    struct pair pairs[PAIRS_MAX];
    for (uint32_t i = 0; i < m->n_fields; i++)
        pairs[i] = (struct pair){.name = m->fields[i].name, .number = m->fields[i].value};
    put_pairs(w, "fields", pairs, m->n_fields);
    put_string(w, "id", e->id);
    put_string(w, "measurement", m->measurement);
    for (uint32_t i = 0; i < m->n_tags; i++)
        pairs[i] = (struct pair){.name = m->tags[i].key,
                                 .text = m->tags[i].value.ptr ? m->tags[i].value : STR("")};
    if (m->n_tags)
        put_pairs(w, "tags", pairs, m->n_tags);
    put_type(w, e, "metric");
}

static void put_character(struct jsonw *w, const struct event *e)
{
    const struct event_character *c = &e->u.character;
    struct pair pairs[PAIRS_MAX];
    put_string(w, "id", e->id);
    for (uint32_t i = 0; i < c->n_traits; i++)
        pairs[i] = (struct pair){.name = c->traits[i].name, .number = c->traits[i].weight};
    put_pairs(w, "traits", pairs, c->n_traits);
    put_type(w, e, "character");
    jsonw_key(w, "version");
    jsonw_int(w, c->version);
}

static void put_base64(struct jsonw *w, const char *key, struct str bytes)
{
    CLEANUP(buf_deinit) struct buf text;
    buf_init(&text, base64_length(bytes.len));
    enum status st = buf_reserve(&text, base64_length(bytes.len));
    if (st) {
        w->st = w->st ? w->st : st;
        return;
    }
    base64_encode((const unsigned char *)bytes.ptr, bytes.len, text.data);
    put_string(w, key, (struct str){text.data, base64_length(bytes.len)});
}

static void put_dead_letter(struct jsonw *w, const struct event *e)
{
    const struct event_dead_letter *d = &e->u.dead_letter;
    if (str_is_text(d->bytes))
        put_string(w, "bytes", d->bytes);
    else
        put_base64(w, "bytes_base64", d->bytes);
    put_string(w, "id", e->id);
    put_string(w, "reason", d->reason);
    put_type(w, e, "dead_letter");
    put_string(w, "where", d->where);
}

/* Everything after "at" and "bot_name", which sort before the members of every type. */
static void put_body(struct jsonw *w, const struct event *e)
{
    switch (e->type) {
    case EVENT_MESSAGE:
        put_message(w, e);
        break;
    case EVENT_MESSAGE_DELETED:
        put_string(w, "id", e->id);
        put_type(w, e, "message_deleted");
        break;
    case EVENT_MEMORY:
        put_memory(w, e);
        break;
    case EVENT_METRIC:
        put_metric(w, e);
        break;
    case EVENT_OUTREACH:
        put_string(w, "id", e->id);
        put_word(w, "op", &words_outreach_op, (int)e->u.outreach.op);
        put_string(w, "topic", e->u.outreach.topic);
        put_type(w, e, "outreach");
        break;
    case EVENT_CHARACTER:
        put_character(w, e);
        break;
    case EVENT_PRIVACY:
        put_string(w, "id", e->id);
        put_word(w, "op", &words_privacy_op, (int)e->u.privacy.op);
        put_string(w, "scope", e->u.privacy.scope);
        put_type(w, e, "privacy");
        break;
    case EVENT_DEAD_LETTER:
        put_dead_letter(w, e);
        break;
    case EVENT_REQUEST:
        put_string(w, "id", e->id);
        put_word(w, "op", &words_request_op, (int)e->u.request.op);
        put_string(w, "reason", e->u.request.reason);
        put_type(w, e, "request");
        break;
    }
}

enum status event_to_json(const struct event *e, struct buf *out, struct error *err)
{
    enum status st = event_check(e, err);
    if (st)
        return st;
    size_t start = out->len;
    char at[40];
    size_t at_len = (size_t)time_format(e->at_us, 1, at);
    struct jsonw w;
    jsonw_init(&w, out);
    jsonw_object_begin(&w);
    put_string(&w, "at", (struct str){at, at_len});
    if (e->bot_name.len)
        put_string(&w, "bot_name", e->bot_name);
    put_body(&w, e);
    jsonw_object_end(&w);
    st = jsonw_status(&w);
    if (st) {
        out->len = start;
        return error_set(err, st, "no room for the JSON form of an event");
    }
    return STATUS_OK;
}
