#include "engines/feature.h"

#include "core/hash.h"
#include "engines/codec.h"
#include "engines/embedding.h"
#include "engines/kernels.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define HAS_EMBEDDING 8        /* beside the op of a message */
#define SCALE         1000000u /* scores and importances are kept x 10^6 */

bool feature_wanted(enum event_type type)
{
    return type == EVENT_MESSAGE || type == EVENT_MESSAGE_DELETED || type == EVENT_MEMORY ||
           type == EVENT_OUTREACH || type == EVENT_PRIVACY || type == EVENT_METRIC ||
           type == EVENT_CHARACTER;
}

static uint32_t quantise(double value)
{
    if (isnan(value))
        return UINT32_MAX;
    double bounded = value < 0 ? 0 : value > 1 ? 1 : value;
    return (uint32_t)floor(bounded * SCALE + 0.5);
}

static void take_labels(const struct text_features *text, struct feature *f)
{
    f->n_labels = text->n_labels;
    for (size_t i = 0; i < text->n_labels; i++) {
        memcpy(f->label_text[i], text->label[i], text->label_len[i]);
        f->labels[i] = (struct str){f->label_text[i], text->label_len[i]};
    }
}

static void take_traits(const struct event_message *e, struct feature *f)
{
    uint8_t *weights = f->u.message.traits.weight;
    for (size_t i = 0; i < e->n_traits && i < LIMIT_TRAITS; i++) {
        struct str name = str_cut(e->traits[i].name, RECORD_TRAIT_BYTES);
        double given = e->traits[i].weight;
        /* Written so that NaN is no weight either. */
        double bounded = given > 0 ? fmin(given, 1) : 0;
        uint8_t weight = (uint8_t)floor(bounded * RECORD_TRAIT_WEIGHT + 0.5);
        if (name.len == 0 || weight == 0)
            continue;
        size_t at = 0;
        while (at < f->n_traits && !str_equal(f->traits[at], name))
            at++;
        if (at == f->n_traits)
            f->traits[f->n_traits++] = name;
        if (weight > weights[at])
            weights[at] = weight;
    }
}

static void extract_message(const struct event_message *e, const struct epoch *epoch,
                            struct feature *f)
{
    struct msg_rec *m = &f->u.message;
    f->op = (uint8_t)e->op;
    f->content_unchanged = e->content.ptr == NULL;
    if (!f->content_unchanged) {
        struct text_features text;
        text_extract(e->content, epoch, &text);
        m->flags = text.flags;
        m->words = text.words;
        m->chars = text.chars;
        m->n_vector = text.n_vector;
        m->norm2 = text.norm2;
        memcpy(m->edge, text.edge, sizeof(m->edge));
        memcpy(m->vector, text.vector, sizeof(m->vector));
        m->common = text.common;
        if (e->role != ROLE_BOT)
            memcpy(m->marks, text.marks, sizeof(m->marks));
        take_labels(&text, f);
        f->n_df = text.n_df;
        memcpy(f->df, text.df, sizeof(f->df));
    }
    if (e->role == ROLE_BOT) {
        m->flags |= MSG_BOT;
        take_traits(e, f);
    }
    embedding_take(e, &f->embedding);
    int emotion = e->emotion.ptr ? text_emotion_find(e->emotion) : -1;
    if (emotion >= 0) {
        /* A label without a confidence is taken at its word. */
        double confidence = isnan(e->emotion_confidence) ? 1 : e->emotion_confidence;
        confidence = confidence < 0 ? 0 : confidence > 1 ? 1 : confidence;
        m->flags |= MSG_HAS_EMOTION;
        m->emotion = (uint8_t)emotion;
        m->emotion_confidence = (uint8_t)floor(confidence * 255 + 0.5);
        m->valence = text_valence(emotion, m->emotion_confidence);
    }
}

static void extract_memory(const struct event_memory *e, const struct epoch *epoch,
                           struct feature *f)
{
    f->op = (uint8_t)e->op;
    f->u.memory.memory = hash64(e->memory_id);
    f->u.memory.name = str_cut(e->memory_id, LIMIT_LABEL_BYTES);
    f->u.memory.type = str_cut(e->memory_type, sizeof(((struct mem_rec *)NULL)->type));
    f->u.memory.score = quantise(e->score);
    f->u.memory.importance = quantise(e->importance);
    f->u.memory.has_signal = e->grade >= 1 || e->outcome != OUTCOME_NONE;
    f->u.memory.grade = e->grade >= 1 && e->grade <= 4 ? (uint8_t)e->grade
                        : e->outcome == OUTCOME_MISS   ? 1
                                                       : 3;
    if (e->op != MEMORY_CREATE || !e->content.ptr)
        return;
    struct text_features text;
    text_extract(e->content, epoch, &text);
    f->u.memory.n_vector = text.n_vector;
    f->u.memory.norm2 = text.norm2;
    memcpy(f->u.memory.vector, text.vector, sizeof(f->u.memory.vector));
    take_labels(&text, f);
}

/* One that is not given covers everything. */
static uint8_t consent_scopes(struct str scope)
{
    if (scope.len == 0 || str_equal(scope, STR("all")))
        return 1u << CONSENT_PROACTIVE | 1u << CONSENT_PROFILING;
    if (str_equal(scope, STR("proactive")))
        return 1u << CONSENT_PROACTIVE;
    return str_equal(scope, STR("profiling")) ? 1u << CONSENT_PROFILING : 0;
}

void feature_extract(const struct event *e, enum source source, uint64_t ver,
                     const struct epoch_list *epochs, struct feature *ret)
{
    assert(feature_wanted(e->type));
    const struct epoch *epoch = epoch_at(epochs, kernel_day(e->at_us));
    memset(ret, 0, sizeof(*ret));
    ret->type = e->type;
    ret->source = (uint8_t)source;
    ret->ver = ver;
    ret->id = hash64(e->id);
    ret->t_us = e->at_us;
    if (e->type == EVENT_MESSAGE) {
        extract_message(&e->u.message, epoch, ret);
        ret->u.message.t_us = ret->t_us;
        ret->u.message.id = ret->id;
        ret->u.message.ver = ver;
        ret->u.message.source = ret->source;
    } else if (e->type == EVENT_MEMORY) {
        extract_memory(&e->u.memory, epoch, ret);
    } else if (e->type == EVENT_OUTREACH) {
        ret->op = (uint8_t)e->u.outreach.op;
    } else if (e->type == EVENT_PRIVACY) {
        ret->op = (uint8_t)e->u.privacy.op;
        ret->u.privacy.scopes = consent_scopes(e->u.privacy.scope);
    } else if (e->type == EVENT_METRIC) {
        metric_feature_extract(e, &ret->u.metric);
    } else if (e->type == EVENT_CHARACTER) {
        character_feature_extract(e, &ret->u.character);
    }
}

bool feature_ignored(const struct event *e)
{
    return e->type == EVENT_METRIC && !measurement_known(e->u.metric.measurement);
}

/* The rest of such an id tells the messages of one user apart: with the 2048 that a key holds, two
 * meet once in thirty thousand keys. */
#define BOT_ID_BITS 36

/* Never 0, so neither is an id that begins with it. */
static uint64_t feature_bot_tag(struct str user_id)
{
    uint64_t tag = hash64_mix(hash64(user_id)) >> BOT_ID_BITS;
    return tag ? tag : 1;
}

bool feature_bot_id_is_of(uint64_t id, struct str user_id)
{
    return id >> BOT_ID_BITS == feature_bot_tag(user_id);
}

bool feature_in_bot_is_of(const struct feature *f, struct str user_id)
{
    if (f->type == EVENT_METRIC)
        return f->u.metric.user == hash64(user_id);
    return (f->type == EVENT_MESSAGE || f->type == EVENT_MESSAGE_DELETED) &&
           feature_bot_id_is_of(f->id, user_id);
}

void feature_for_bot(struct feature *f, struct str user_id)
{
    if (f->type != EVENT_MESSAGE && f->type != EVENT_MESSAGE_DELETED)
        return;
    uint64_t tag = feature_bot_tag(user_id);
    f->id = tag << BOT_ID_BITS | hash64_mix(f->id + hash64(user_id)) >> (64 - BOT_ID_BITS);
    f->n_df = 0;
    if (f->type == EVENT_MESSAGE)
        f->u.message.id = f->id;
}

static void put_labels(struct writer *w, const struct feature *f)
{
    put_u8(w, f->n_labels);
    for (size_t i = 0; i < f->n_labels; i++)
        put_blob(w, f->labels[i].ptr, f->labels[i].len);
}

static void get_labels(struct reader *r, struct feature *f)
{
    f->n_labels = reader_u8(r);
    if (f->n_labels > RECORD_LABELS) {
        r->bad = true;
        f->n_labels = 0;
    }
    for (size_t i = 0; i < f->n_labels; i++) {
        f->labels[i] = reader_blob(r);
        if (f->labels[i].len == 0 || f->labels[i].len > RECORD_LABEL_BYTES)
            r->bad = true;
    }
}

/* Of bot messages only. */
static void put_traits(struct writer *w, const struct feature *f)
{
    put_u8(w, f->n_traits);
    for (size_t i = 0; i < f->n_traits; i++) {
        put_blob(w, f->traits[i].ptr, f->traits[i].len);
        put_u8(w, f->u.message.traits.weight[i]);
    }
}

static void get_traits(struct reader *r, struct feature *f)
{
    size_t n = (size_t)reader_varint_max(r, LIMIT_TRAITS);
    for (size_t i = 0; i < n && !r->bad; i++) {
        struct str name = reader_blob(r);
        uint8_t weight = reader_u8(r);
        if (name.len == 0 || name.len > RECORD_TRAIT_BYTES || !str_is_text(name) || weight == 0 ||
            weight > RECORD_TRAIT_WEIGHT)
            r->bad = true;
        for (size_t k = 0; k < i; k++)
            r->bad |= str_equal(f->traits[k], name);
        f->traits[i] = name;
        f->u.message.traits.weight[i] = weight;
    }
    f->n_traits = r->bad ? 0 : (uint8_t)n;
}

/* 0 = none, else value + 1: scores are rarely given. */
static void put_optional(struct writer *w, uint32_t v)
{
    put_varint(w, v == UINT32_MAX ? 0 : (uint64_t)v + 1);
}

static uint32_t get_optional(struct reader *r)
{
    uint64_t v = reader_varint_max(r, SCALE + 1);
    return v == 0 ? UINT32_MAX : (uint32_t)(v - 1);
}

enum status feature_encode(const struct feature *f, struct buf *out)
{
    assert(feature_wanted(f->type));
    struct writer w;
    enum status st = codec_begin(out, CODEC_RECORD_BYTES + METRIC_FEATURE_BYTES, &w);
    if (st)
        return st;
    put_u8(&w, (uint8_t)(FEATURE_FORMAT << 4 | f->type));
    uint8_t op = f->op | (f->embedding.model ? HAS_EMBEDDING : 0);
    put_u8(&w, (uint8_t)(op << 4 | f->source << 1 | f->content_unchanged));
    put_varint(&w, f->ver);
    put_u64(&w, f->id);
    put_svarint(&w, f->t_us);
    if (f->type == EVENT_MESSAGE) {
        codec_put_message(&w, &f->u.message);
        if (f->embedding.model)
            codec_put_embedding(&w, &f->embedding);
        put_labels(&w, f);
        if (f->u.message.flags & MSG_BOT)
            put_traits(&w, f);
    } else if (f->type == EVENT_MEMORY) {
        put_u64(&w, f->u.memory.memory);
        put_blob(&w, f->u.memory.name.ptr, f->u.memory.name.len);
        put_blob(&w, f->u.memory.type.ptr, f->u.memory.type.len);
        put_optional(&w, f->u.memory.score);
        put_optional(&w, f->u.memory.importance);
        put_u8(&w, (uint8_t)(f->u.memory.grade << 1 | f->u.memory.has_signal));
        codec_put_vector(&w, f->u.memory.vector, f->u.memory.n_vector);
        put_labels(&w, f);
    } else if (f->type == EVENT_PRIVACY) {
        put_u8(&w, f->u.privacy.scopes);
    } else if (f->type == EVENT_METRIC) {
        metric_feature_put(&w, &f->u.metric);
    } else if (f->type == EVENT_CHARACTER) {
        character_feature_put(&w, &f->u.character);
    }
    codec_end(out, &w);
    return STATUS_OK;
}

static void decode_message(struct reader *r, struct feature *f)
{
    struct msg_rec *m = &f->u.message;
    codec_get_message(r, m);
    if (f->op & HAS_EMBEDDING)
        codec_get_embedding(r, &f->embedding);
    f->op &= (uint8_t)~HAS_EMBEDDING;
    m->t_us = f->t_us;
    m->id = f->id;
    m->ver = f->ver;
    m->source = f->source;
    get_labels(r, f);
    if (m->flags & MSG_BOT)
        get_traits(r, f);
    if (f->op != MESSAGE_INSERT && f->op != MESSAGE_UPDATE)
        r->bad = true;
}

static void decode_memory(struct reader *r, struct feature *f)
{
    f->u.memory.memory = reader_u64(r);
    f->u.memory.name = reader_blob(r);
    f->u.memory.type = reader_blob(r);
    f->u.memory.score = get_optional(r);
    f->u.memory.importance = get_optional(r);
    uint8_t grade = reader_u8(r);
    f->u.memory.grade = grade >> 1;
    f->u.memory.has_signal = grade & 1;
    codec_get_vector(r, f->u.memory.vector, &f->u.memory.n_vector, &f->u.memory.norm2);
    get_labels(r, f);
    if (f->op < MEMORY_CREATE || f->op > MEMORY_PIN || f->u.memory.grade < 1 ||
        f->u.memory.grade > 4 || f->u.memory.name.len > LIMIT_LABEL_BYTES ||
        f->u.memory.type.len > sizeof(((struct mem_rec *)NULL)->type))
        r->bad = true;
}

static void decode_privacy(struct reader *r, struct feature *f)
{
    f->u.privacy.scopes = reader_u8(r);
    if (f->u.privacy.scopes >= 1u << CONSENT_SCOPES || f->op < PRIVACY_ERASE ||
        f->op > PRIVACY_OPTIN)
        r->bad = true;
}

enum status feature_decode(struct reader *r, struct feature *ret, struct error *err)
{
    memset(ret, 0, sizeof(*ret));
    uint8_t head = reader_u8(r);
    uint8_t kind = reader_u8(r);
    if (!r->bad && head >> 4 != FEATURE_FORMAT)
        return error_set(err, STATUS_CORRUPT, "feature format %u is not known", head >> 4);
    ret->type = head & 15;
    ret->op = kind >> 4;
    ret->source = kind >> 1 & 7;
    ret->content_unchanged = kind & 1;
    ret->ver = reader_varint(r);
    ret->id = reader_u64(r);
    ret->t_us = reader_svarint(r);
    bool odd_op =
        ret->type == EVENT_OUTREACH && (ret->op < OUTREACH_SENT || ret->op > OUTREACH_OPTED_OUT);
    if (ret->source >= SOURCE_COUNT || !feature_wanted(ret->type) || odd_op)
        r->bad = true;
    else if (ret->type == EVENT_MESSAGE)
        decode_message(r, ret);
    else if (ret->type == EVENT_MEMORY)
        decode_memory(r, ret);
    else if (ret->type == EVENT_PRIVACY)
        decode_privacy(r, ret);
    else if (ret->type == EVENT_METRIC)
        metric_feature_get(r, &ret->u.metric);
    else if (ret->type == EVENT_CHARACTER)
        character_feature_get(r, &ret->u.character);
    if (r->bad)
        return error_set(err, STATUS_CORRUPT, "a feature is cut short or out of range");
    return STATUS_OK;
}
