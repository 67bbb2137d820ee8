#include "engines/feature_metric.h"

#include "core/hash.h"
#include "engines/codec.h"

#include <math.h>

struct str metric_user(const struct event *e)
{
    if (e->user_id.len)
        return e->user_id;
    const struct event_metric *m = &e->u.metric;
    for (size_t i = 0; i < m->n_tags; i++)
        if (str_equal(m->tags[i].key, STR("user_id")) && m->tags[i].value.len)
            return m->tags[i].value;
    return STR_NULL;
}

static uint64_t user_of(const struct event *e)
{
    struct str user = metric_user(e);
    return user.len ? hash64(user) : 0;
}

/* Tags are a set: the sum does not depend on their order. */
static uint64_t series_of(const struct event_metric *m, uint64_t user)
{
    uint64_t series = hash64_mix(hash64(m->measurement)) + user;
    for (size_t i = 0; i < m->n_tags; i++)
        series += hash64_mix(hash64(m->tags[i].key) + hash64_mix(hash64(m->tags[i].value)));
    return hash64_mix(series);
}

static void name_stream(struct str measurement, struct str field, struct metric_value *v)
{
    struct buf name;
    buf_init(&name, 2 * LIMIT_ID_BYTES + 1);
    /* Only memory can fail here; then the stream is known by its hash and shown without a name. */
    if (buf_append_str(&name, measurement) || buf_append_str(&name, STR(".")) ||
        buf_append_str(&name, field))
        buf_reset(&name);
    struct str shown = str_cut((struct str){name.data, name.len}, METRIC_NAME_BYTES);
    v->name_len = (uint8_t)shown.len;
    if (shown.len)
        memcpy(v->name, shown.ptr, shown.len);
    buf_deinit(&name);
    v->stream = hash64_mix(hash64(measurement) + hash64_mix(hash64(field)));
    if (v->stream < METRIC_COUNT)
        v->stream += METRIC_COUNT;
}

void metric_feature_extract(const struct event *e, struct metric_feature *ret)
{
    const struct event_metric *m = &e->u.metric;
    ret->user = user_of(e);
    ret->series = series_of(m, ret->user);
    for (size_t i = 0; i < m->n_fields && i < METRIC_VALUES; i++) {
        struct metric_value *v = &ret->values[ret->n_values++];
        double value = m->fields[i].value;
        enum metric metric = measurement_metric(m->measurement, m->fields[i].name);
        bool taken =
            metric_is_score(metric) ? value >= 0 && value <= 1 : fabs(value) <= METRIC_VALUE_MAX;
        if (!taken && !ret->refused)
            ret->refused = (uint8_t)(i + 1);
        v->metric = (uint8_t)metric;
        v->stream = (uint64_t)metric;
        v->value = taken ? llround(value * METRIC_SCALE) : 0;
        if (metric == METRIC_OTHER)
            name_stream(m->measurement, m->fields[i].name, v);
    }
}

void character_feature_extract(const struct event *e, struct character_feature *ret)
{
    const struct event_character *c = &e->u.character;
    ret->version = c->version;
    for (size_t i = 0; i < c->n_traits && i < CHARACTER_TRAITS; i++) {
        struct character_trait *t = &ret->traits[ret->n_traits];
        struct str name = str_cut(c->traits[i].name, TRAIT_NAME_BYTES);
        double weight = c->traits[i].weight;
        if (name.len == 0 || !(weight > 0))
            continue;
        t->name_len = (uint8_t)name.len;
        memcpy(t->name, name.ptr, name.len);
        t->weight = (uint32_t)llround(fmin(weight, TRAIT_WEIGHT_MAX) * METRIC_SCALE);
        ret->n_traits++;
    }
}

uint64_t character_definition(const struct character_feature *f)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < f->n_traits; i++) {
        const struct character_trait *t = &f->traits[i];
        sum += hash64_mix(hash64((struct str){t->name, t->name_len}) + t->weight);
    }
    return hash64_mix(sum ^ hash64_mix((uint64_t)f->version));
}

void metric_feature_put(struct writer *w, const struct metric_feature *f)
{
    put_u64(w, f->series);
    put_u8(w, f->user != 0);
    if (f->user)
        put_u64(w, f->user);
    put_u8(w, f->refused);
    put_u8(w, f->n_values);
    for (size_t i = 0; i < f->n_values; i++) {
        const struct metric_value *v = &f->values[i];
        put_u8(w, v->metric);
        put_svarint(w, v->value);
        if (v->metric != METRIC_OTHER)
            continue;
        put_u64(w, v->stream);
        put_blob(w, v->name, v->name_len);
    }
}

static uint8_t get_name(struct reader *r, char *to, size_t size)
{
    struct str name = reader_blob(r);
    if (name.len > size) {
        r->bad = true;
        return 0;
    }
    if (name.len)
        memcpy(to, name.ptr, name.len);
    return (uint8_t)name.len;
}

static void get_value(struct reader *r, struct metric_value *v)
{
    const int64_t largest = (int64_t)METRIC_VALUE_MAX * METRIC_SCALE;
    v->metric = reader_u8(r);
    v->value = reader_svarint(r);
    v->stream = v->metric;
    if (v->metric == METRIC_OTHER) {
        v->stream = reader_u64(r);
        v->name_len = get_name(r, v->name, METRIC_NAME_BYTES);
        r->bad |= v->stream < METRIC_COUNT;
    }
    bool in_range = metric_is_score(v->metric) ? v->value >= 0 && v->value <= METRIC_SCALE
                                               : v->value >= -largest && v->value <= largest;
    if (v->metric >= METRIC_COUNT || !in_range)
        r->bad = true;
}

void metric_feature_get(struct reader *r, struct metric_feature *f)
{
    f->series = reader_u64(r);
    uint8_t has_user = reader_u8(r);
    f->user = has_user ? reader_u64(r) : 0;
    f->refused = reader_u8(r);
    f->n_values = reader_u8(r);
    if (has_user > 1 || f->n_values > METRIC_VALUES || f->refused > f->n_values) {
        r->bad = true;
        f->n_values = 0;
    }
    for (size_t i = 0; i < f->n_values && !r->bad; i++)
        get_value(r, &f->values[i]);
}

void character_feature_put(struct writer *w, const struct character_feature *f)
{
    put_svarint(w, f->version);
    put_u8(w, f->n_traits);
    for (size_t i = 0; i < f->n_traits; i++) {
        put_blob(w, f->traits[i].name, f->traits[i].name_len);
        put_varint(w, f->traits[i].weight);
    }
}

void character_feature_get(struct reader *r, struct character_feature *f)
{
    f->version = reader_svarint(r);
    f->n_traits = reader_u8(r);
    if (f->n_traits > CHARACTER_TRAITS) {
        r->bad = true;
        f->n_traits = 0;
    }
    for (size_t i = 0; i < f->n_traits && !r->bad; i++) {
        struct character_trait *t = &f->traits[i];
        t->name_len = get_name(r, t->name, TRAIT_NAME_BYTES);
        t->weight = (uint32_t)reader_varint_max(r, (uint64_t)TRAIT_WEIGHT_MAX * METRIC_SCALE);
        r->bad |= t->name_len == 0 || t->weight == 0;
    }
}
