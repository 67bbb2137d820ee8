/*
 * The durable page of a key: its log, tombstones and declared lifetime numbers; accumulators are
 * rebuilt from them.
 *
 *   u8 KEY_FORMAT, user, bot, T, the numbers of what left, marks, tokens, memories, messages,
 *   accesses, outreach, of a bot's own key its metrics (metrics_page.c), u64 hash64 of everything
 *   before it
 *
 * Times and versions are differences to the record before; labels are numbers into the token list,
 * which holds tokens in order of first use. The bytes therefore depend on the content alone, not on
 * the way the key came to it.
 */
#include "core/hash.h"
#include "engines/codec.h"
#include "engines/klog.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY_LABELS (sizeof(((struct mem_rec *)NULL)->labels) / sizeof(label_ref))
#define CHECK_BYTES   8

enum {
    HAS_FIRST_LEFT = 1,
    HAS_MESSAGE_CUT = 2,
    HAS_ACCESS_CUT = 4,
    HAS_CONSENT = 8, /* shifted by the scope */
    HAS_END = HAS_CONSENT << CONSENT_SCOPES,
};

/* ---- encoding ---- */

/* From references of the arena to numbers of the page (1, 2, ... in order of first use). */
struct numbering {
    uint16_t *numbers; /* by reference - 1; 0 = not met yet */
    uint32_t n;
};

static void free_bytes(uint16_t **p)
{
    free(*p);
}

static enum status number_labels(const struct key *k, const label_ref *labels, size_t n,
                                 struct numbering *x, struct buf *tokens)
{
    for (size_t i = 0; i < n && labels[i]; i++) {
        uint16_t *number = &x->numbers[labels[i] - 1];
        if (*number)
            continue;
        *number = (uint16_t)++x->n;
        enum status st = buf_put_bytes(tokens, arena_get(&k->arena, labels[i]));
        if (st)
            return st;
    }
    return STATUS_OK;
}

static enum status encode_tokens(const struct key *k, struct numbering *x, struct buf *out)
{
    struct buf tokens CLEANUP(buf_deinit);
    buf_init(&tokens, LIMIT_KEY_BYTES);
    enum status st = STATUS_OK;
    for (size_t i = 0; !st && i < k->log.n_memories; i++)
        st = number_labels(k, k->log.memories[i].labels, MEMORY_LABELS, x, &tokens);
    for (size_t i = 0; !st && i < k->messages_all; i++) {
        const struct msg_rec *m = &k->log.messages[i];
        st = number_labels(k, m->labels, RECORD_LABELS, x, &tokens);
        if (!st && m->flags & MSG_BOT)
            st = number_labels(k, m->traits.name, LIMIT_TRAITS, x, &tokens);
    }
    assert(st || x->n == k->arena.n_used);
    st = st ? st : buf_put_varint(out, x->n);
    return st ? st : buf_append(out, tokens.data, tokens.len);
}

static void put_labels(struct writer *w, const struct numbering *x, const label_ref *labels,
                       size_t max)
{
    size_t n = 0;
    while (n < max && labels[n])
        n++;
    put_u8(w, (uint8_t)n);
    for (size_t i = 0; i < n; i++)
        put_varint(w, x->numbers[labels[i] - 1]);
}

/* Of bot messages only. */
static void put_traits(struct writer *w, const struct numbering *x, const struct msg_rec *m)
{
    put_labels(w, x, m->traits.name, LIMIT_TRAITS);
    for (size_t i = 0; i < msg_trait_count(m); i++)
        put_u8(w, m->traits.weight[i]);
}

static enum status encode_head(const struct key *k, struct buf *out)
{
    struct writer w;
    size_t room = k->log.user_id.len + k->log.bot_name.len + 128;
    enum status st = codec_begin(out, room, &w);
    if (st)
        return st;
    put_u8(&w, KEY_FORMAT);
    put_blob(&w, k->log.user_id.ptr, k->log.user_id.len);
    put_blob(&w, k->log.bot_name.ptr, k->log.bot_name.len);
    put_svarint(&w, k->log.as_of_us);
    uint8_t has = (k->first_left_us != INT64_MAX ? HAS_FIRST_LEFT : 0) |
                  (k->message_cut_us != INT64_MIN ? HAS_MESSAGE_CUT : 0) |
                  (k->access_cut_us != INT64_MIN ? HAS_ACCESS_CUT : 0);
    for (size_t s = 0; s < CONSENT_SCOPES; s++)
        has |= (uint8_t)(k->log.consents[s].given ? HAS_CONSENT << s : 0);
    put_u8(&w, has);
    if (has & HAS_FIRST_LEFT)
        put_svarint(&w, k->first_left_us);
    if (has & HAS_MESSAGE_CUT)
        put_svarint(&w, k->message_cut_us);
    if (has & HAS_ACCESS_CUT)
        put_svarint(&w, k->access_cut_us);
    for (size_t s = 0; s < CONSENT_SCOPES; s++) {
        const struct consent *c = &k->log.consents[s];
        if (!c->given)
            continue;
        put_u8(&w, c->opted_out);
        put_svarint(&w, c->t_us);
        put_varint(&w, c->ver);
    }
    put_varint(&w, k->log.forgotten_n);
    put_svarint(&w, k->log.forgotten_created_s);
    codec_end(out, &w);
    return STATUS_OK;
}

static enum status encode_marks(const struct key *k, struct buf *out)
{
    struct writer w;
    enum status st = codec_begin(out, 10 + k->n_marks * 40, &w);
    if (st)
        return st;
    put_varint(&w, k->n_marks);
    for (size_t i = 0; i < k->n_marks; i++) {
        const struct mark *m = &k->marks[i];
        put_u8(&w, (uint8_t)(m->kind << 4 | m->source));
        put_u64(&w, m->id);
        put_varint(&w, m->ver);
        put_svarint(&w, m->t_us);
    }
    codec_end(out, &w);
    return STATUS_OK;
}

static void put_fsrs(struct writer *w, const struct fsrs_state *s)
{
    put_varint(w, s->reps);
    if (s->reps == 0)
        return;
    put_double(w, s->difficulty);
    put_double(w, s->stability_days);
    put_svarint(w, s->last_us);
    put_varint(w, s->lapses);
    put_varint(w, (uint64_t)s->spaced << 1 | s->last_spaced);
}

static enum status encode_memories(const struct key *k, const struct numbering *x, struct buf *out)
{
    enum status st = buf_put_varint(out, k->log.n_memories);
    for (size_t i = 0; !st && i < k->log.n_memories; i++) {
        const struct mem_rec *m = &k->log.memories[i];
        struct writer w;
        st = codec_begin(out, CODEC_RECORD_BYTES, &w);
        if (st)
            return st;
        put_u64(&w, m->id);
        put_svarint(&w, m->created_us);
        put_varint(&w, m->ver);
        put_u8(&w, (uint8_t)(m->grade << 4 | m->pinned << 3 | m->source));
        put_varint(&w, m->importance == UINT32_MAX ? 0 : (uint64_t)m->importance + 1);
        put_blob(&w, m->name, m->name_len);
        put_blob(&w, m->type, m->type_len);
        codec_put_vector(&w, m->vector, m->n_vector);
        put_labels(&w, x, m->labels, MEMORY_LABELS);
        put_fsrs(&w, &m->base);
        codec_end(out, &w);
    }
    return st;
}

#define HAS_EMBEDDING 8 /* beside the source of a message */

static enum status encode_messages(const struct key *k, const struct numbering *x, struct buf *out)
{
    enum status st = buf_put_varint(out, k->messages_all);
    int64_t t_us = 0;
    uint64_t ver = 0;
    for (size_t i = 0; !st && i < k->messages_all; i++) {
        const struct msg_rec *m = &k->log.messages[i];
        struct writer w;
        st = codec_begin(out, CODEC_RECORD_BYTES, &w);
        if (st)
            return st;
        put_svarint(&w, m->t_us - t_us);
        put_u64(&w, m->id);
        put_svarint(&w, (int64_t)(m->ver - ver));
        put_u8(&w, (uint8_t)(m->source | (m->embedding ? HAS_EMBEDDING : 0)));
        codec_put_message(&w, m);
        if (m->embedding)
            codec_put_embedding(&w, &k->embeddings[m->embedding - 1]);
        put_labels(&w, x, m->labels, RECORD_LABELS);
        if (m->flags & MSG_BOT)
            put_traits(&w, x, m);
        codec_end(out, &w);
        t_us = m->t_us;
        ver = m->ver;
    }
    return st;
}

static enum status encode_accesses(const struct key *k, struct buf *out)
{
    enum status st = buf_put_varint(out, k->accesses_all);
    int64_t t_us = 0;
    for (size_t i = 0; !st && i < k->accesses_all; i++) {
        const struct access_rec *a = &k->log.accesses[i];
        struct writer w;
        st = codec_begin(out, CODEC_RECORD_BYTES, &w);
        if (st)
            return st;
        put_svarint(&w, a->t_us - t_us);
        put_u64(&w, a->id);
        put_u64(&w, a->memory);
        put_varint(&w, a->score == UINT32_MAX ? 0 : (uint64_t)a->score + 1);
        put_u8(&w, (uint8_t)(a->grade << 4 | a->has_signal << 3 | a->source));
        codec_end(out, &w);
        t_us = a->t_us;
    }
    return st;
}

static enum status encode_outreach(const struct key *k, struct buf *out)
{
    struct writer w;
    enum status st = codec_begin(out, 10 + k->outreach_all * 32, &w);
    if (st)
        return st;
    put_varint(&w, k->outreach_all);
    int64_t t_us = 0;
    for (size_t i = 0; i < k->outreach_all; i++) {
        const struct outreach_rec *o = &k->outreach[i];
        put_svarint(&w, o->t_us - t_us);
        put_u64(&w, o->id);
        put_varint(&w, o->ver);
        put_u8(&w, (uint8_t)(o->op << 4 | o->replied << 3 | o->source));
        t_us = o->t_us;
    }
    codec_end(out, &w);
    return STATUS_OK;
}

enum status key_encode(const struct key *k, struct buf *out)
{
    size_t start = out->len;
    CLEANUP(free_bytes) uint16_t *numbers = calloc(k->arena.n_slots + 1, sizeof(*numbers));
    if (!numbers)
        return STATUS_NOMEM;
    struct numbering x = {numbers, 0};
    enum status st = encode_head(k, out);
    st = st ? st : encode_marks(k, out);
    st = st ? st : encode_tokens(k, &x, out);
    st = st ? st : encode_memories(k, &x, out);
    st = st ? st : encode_messages(k, &x, out);
    st = st ? st : encode_accesses(k, out);
    st = st ? st : encode_outreach(k, out);
    if (!st && k->scope == ENGINE_BOT) {
        st = buf_put_u8(out, k->metrics != NULL);
        if (!st && k->metrics)
            st = metrics_encode(k->metrics, out);
    }
    if (!st)
        st = buf_put_u64(out, hash64((struct str){out->data + start, out->len - start}));
    if (st)
        out->len = start;
    return st;
}

/* ---- decoding ---- */

/* The page's tokens, each holding one reference until the records have taken theirs. */
struct tokens {
    struct arena *arena;
    label_ref *refs;
    size_t n;
};

static void tokens_deinit(struct tokens *t)
{
    for (size_t i = 0; i < t->n; i++)
        arena_release(t->arena, t->refs[i]);
    free(t->refs);
}

static void get_labels(struct reader *r, const struct tokens *t, label_ref *labels, size_t max)
{
    uint64_t n = reader_varint_max(r, max);
    for (size_t i = 0; i < n; i++) {
        uint64_t number = reader_varint_max(r, t->n);
        labels[i] = number ? t->refs[number - 1] : 0;
        if (number == 0)
            r->bad = true;
    }
    if (r->bad)
        return;
    for (size_t i = 0; i < n; i++)
        arena_retain(t->arena, labels[i]);
}

/* Also takes the references, as get_labels() does. */
static void get_traits(struct reader *r, const struct tokens *t, struct msg_rec *m)
{
    label_ref names[LIMIT_TRAITS] = {0};
    get_labels(r, t, names, LIMIT_TRAITS);
    memcpy(m->traits.name, names, sizeof(names));
    for (size_t i = 0; i < LIMIT_TRAITS && names[i]; i++) {
        r->bad |= !str_is_text(arena_get(t->arena, names[i]));
        m->traits.weight[i] = reader_u8(r);
        if (m->traits.weight[i] == 0 || m->traits.weight[i] > RECORD_TRAIT_WEIGHT)
            r->bad = true;
        for (size_t k = 0; k < i; k++)
            r->bad |= names[k] == names[i];
    }
}

static int64_t get_time(struct reader *r, int64_t previous_us)
{
    int64_t t_us = 0;
    if (__builtin_add_overflow(previous_us, reader_svarint(r), &t_us))
        r->bad = true;
    return t_us;
}

static uint8_t get_source(struct reader *r, uint8_t byte)
{
    if ((byte & 7) >= SOURCE_COUNT)
        r->bad = true;
    return byte & 7;
}

static uint32_t get_optional(struct reader *r)
{
    uint64_t v = reader_varint_max(r, 1000001);
    return v == 0 ? UINT32_MAX : (uint32_t)(v - 1);
}

static enum status decode_head(struct reader *r, struct key *k, struct error *err)
{
    k->log.as_of_us = reader_svarint(r);
    uint8_t has = reader_u8(r);
    if (has & HAS_FIRST_LEFT)
        k->first_left_us = reader_svarint(r);
    if (has & HAS_MESSAGE_CUT)
        k->message_cut_us = reader_svarint(r);
    if (has & HAS_ACCESS_CUT)
        k->access_cut_us = reader_svarint(r);
    for (size_t s = 0; s < CONSENT_SCOPES; s++) {
        if (!(has & HAS_CONSENT << s))
            continue;
        uint8_t opted_out = reader_u8(r);
        int64_t t_us = reader_svarint(r);
        k->log.consents[s] = (struct consent){true, opted_out, t_us, reader_varint(r)};
        r->bad |= opted_out > 1;
    }
    r->bad |= has >= HAS_END;
    k->log.forgotten_n = reader_varint(r);
    k->log.forgotten_created_s = reader_svarint(r);
    /* Far enough from the ends of the number range that no sum of times overflows. */
    if (k->log.as_of_us < INT64_MIN / 4 || k->log.as_of_us > INT64_MAX / 4)
        r->bad = true;
    uint64_t n = reader_varint_max(r, LIMIT_TOMBSTONES);
    for (size_t i = 0; i < n && !r->bad; i++) {
        struct mark m = {0};
        uint8_t kind = reader_u8(r);
        m.kind = kind >> 4;
        m.source = get_source(r, kind);
        m.id = reader_u64(r);
        m.ver = reader_varint(r);
        m.t_us = reader_svarint(r);
        enum status st = STATUS_OK;
        if (m.kind > MARK_PIN)
            r->bad = true;
        else if (!r->bad)
            st = klog_set_mark(k, &m, err);
        if (st)
            return st;
    }
    return STATUS_OK;
}

static enum status decode_tokens(struct reader *r, struct tokens *t, struct error *err)
{
    uint64_t n = reader_varint(r);
    if (r->bad || n > reader_left(r)) {
        r->bad = true;
        return STATUS_OK;
    }
    t->refs = calloc(n + 1, sizeof(*t->refs));
    if (!t->refs)
        return error_set(err, STATUS_NOMEM, "could not allocate the labels of a key");
    for (size_t i = 0; i < n; i++) {
        struct str s = reader_blob(r);
        if (r->bad || s.len == 0 || s.len > ARENA_STRING_BYTES || i >= ARENA_SLOTS_MAX) {
            r->bad = true;
            return STATUS_OK;
        }
        if (arena_intern(t->arena, s, &t->refs[i]))
            return error_set(err, STATUS_NOMEM, "could not allocate the labels of a key");
        t->n = i + 1;
    }
    return STATUS_OK;
}

static void get_fsrs(struct reader *r, struct fsrs_state *s)
{
    s->reps = (uint32_t)reader_varint_max(r, UINT32_MAX);
    if (s->reps == 0)
        return;
    s->difficulty = reader_double(r);
    s->stability_days = reader_double(r);
    s->last_us = reader_svarint(r);
    s->lapses = (uint32_t)reader_varint_max(r, UINT32_MAX);
    uint64_t spaced = reader_varint_max(r, (uint64_t)UINT32_MAX << 1 | 1);
    s->spaced = (uint32_t)(spaced >> 1);
    s->last_spaced = spaced & 1;
    /* Comparisons that also refuse NaN. */
    if (!(s->difficulty > 0 && s->difficulty < 100) ||
        !(s->stability_days > 0 && s->stability_days < 1e9))
        r->bad = true;
}

static void get_name(struct reader *r, char *to, size_t size, uint8_t *ret_len)
{
    struct str s = reader_blob(r);
    if (s.len > size) {
        r->bad = true;
        return;
    }
    if (s.len)
        memcpy(to, s.ptr, s.len);
    *ret_len = (uint8_t)s.len;
}

static enum status decode_memories(struct reader *r, struct key *k, const struct tokens *t,
                                   size_t n, struct error *err)
{
    enum status st = STATUS_OK;
    for (size_t i = 0; !st && i < n; i++) {
        struct mem_rec m = {0};
        m.id = reader_u64(r);
        m.created_us = reader_svarint(r);
        m.ver = reader_varint(r);
        uint8_t bits = reader_u8(r);
        m.grade = bits >> 4;
        m.pinned = bits >> 3 & 1;
        m.source = get_source(r, bits);
        m.importance = get_optional(r);
        get_name(r, m.name, sizeof(m.name), &m.name_len);
        get_name(r, m.type, sizeof(m.type), &m.type_len);
        codec_get_vector(r, m.vector, &m.n_vector, &m.norm2);
        label_ref labels[MEMORY_LABELS] = {0};
        get_labels(r, t, labels, MEMORY_LABELS);
        memcpy(m.labels, labels, sizeof(labels));
        get_fsrs(r, &m.base);
        if (r->bad || m.grade < 1 || m.grade > 4 || klog_find_memory(k, m.id)) {
            r->bad = true;
            return STATUS_OK;
        }
        size_t index = 0;
        st = klog_insert_memory(k, &m, &index, err);
        r->bad |= index != i;
    }
    return st;
}

static enum status decode_messages(struct reader *r, struct key *k, const struct tokens *t,
                                   size_t n, struct error *err)
{
    enum status st = STATUS_OK;
    struct msg_rec previous = {0};
    for (size_t i = 0; !st && i < n; i++) {
        struct msg_rec m = {0};
        m.t_us = get_time(r, previous.t_us);
        m.id = reader_u64(r);
        m.ver = previous.ver + (uint64_t)reader_svarint(r);
        uint8_t bits = reader_u8(r);
        m.source = get_source(r, bits & (HAS_EMBEDDING - 1));
        r->bad |= bits >= 2 * HAS_EMBEDDING;
        codec_get_message(r, &m);
        struct embedding e = {0};
        if (bits & HAS_EMBEDDING)
            codec_get_embedding(r, &e);
        get_labels(r, t, m.labels, RECORD_LABELS);
        if (m.flags & MSG_BOT)
            get_traits(r, t, &m);
        if (r->bad || m.id == 0 || klog_find_message(k, m.id)) {
            r->bad = true;
            return STATUS_OK;
        }
        if (e.model)
            st = klog_keep_embedding(k, &e, &m.embedding, err);
        if (st)
            return st;
        size_t index = 0;
        st = klog_insert_message(k, &m, &index, err);
        r->bad |= index != i || k->log.n_messages > LIMIT_MESSAGES;
        previous = m;
    }
    return st;
}

static enum status decode_accesses(struct reader *r, struct key *k, size_t n, struct error *err)
{
    enum status st = STATUS_OK;
    int64_t t_us = 0;
    for (size_t i = 0; !st && i < n; i++) {
        struct access_rec a = {0};
        a.t_us = t_us = get_time(r, t_us);
        a.id = reader_u64(r);
        a.memory = reader_u64(r);
        a.score = get_optional(r);
        uint8_t bits = reader_u8(r);
        a.grade = bits >> 4;
        a.has_signal = bits >> 3 & 1;
        a.source = get_source(r, bits);
        if (r->bad || a.id == 0 || a.grade < 1 || a.grade > 4 || klog_find_access(k, a.id)) {
            r->bad = true;
            return STATUS_OK;
        }
        size_t index = 0;
        st = klog_insert_access(k, &a, &index, err);
        r->bad |= index != i || k->log.n_accesses > LIMIT_ACCESSES;
    }
    return st;
}

static enum status decode_outreach(struct reader *r, struct key *k, size_t n, struct error *err)
{
    enum status st = STATUS_OK;
    int64_t t_us = 0;
    for (size_t i = 0; !st && i < n; i++) {
        struct outreach_rec o = {0};
        o.t_us = t_us = get_time(r, t_us);
        o.id = reader_u64(r);
        o.ver = reader_varint(r);
        uint8_t bits = reader_u8(r);
        o.op = bits >> 4;
        o.replied = bits >> 3 & 1;
        o.source = get_source(r, bits);
        bool known = o.op == OUTREACH_SENT || (o.op == OUTREACH_REPLIED && !o.replied);
        if (r->bad || !known || klog_find_outreach(k, o.id, o.op)) {
            r->bad = true;
            return STATUS_OK;
        }
        size_t index = 0;
        st = klog_insert_outreach(k, &o, &index, err);
        r->bad |= index != i;
    }
    return st;
}

/* Reads a count before the records that follow it, each of which takes at least one byte. */
static size_t get_count(struct reader *r, size_t max)
{
    uint64_t n = reader_varint_max(r, max);
    if (n > reader_left(r))
        r->bad = true;
    return r->bad ? 0 : (size_t)n;
}

static enum status decode_body(struct reader *r, struct key *k, struct error *err)
{
    enum status st = decode_head(r, k, err);
    struct tokens t CLEANUP(tokens_deinit) = {&k->arena, NULL, 0};
    st = st ? st : decode_tokens(r, &t, err);
    if (!st)
        st = decode_memories(r, k, &t, get_count(r, LIMIT_MEMORIES), err);
    if (!st)
        st = decode_messages(r, k, &t, get_count(r, LIMIT_MESSAGES + LIMIT_FUTURE_RECORDS), err);
    if (!st)
        st = decode_accesses(r, k, get_count(r, LIMIT_ACCESSES + LIMIT_FUTURE_RECORDS), err);
    if (!st)
        st = decode_outreach(r, k, get_count(r, RECORD_OUTREACH_MAX), err);
    if (!st && k->scope == ENGINE_BOT && reader_u8(r) && !r->bad)
        st = metrics_decode(r, &k->metrics, err);
    k->log.metrics = k->metrics;
    return st;
}

enum status key_decode(struct str bytes, struct key **ret, struct error *err)
{
    if (bytes.len < CHECK_BYTES)
        return error_set(err, STATUS_CORRUPT, "a key page of %zu bytes is too short", bytes.len);
    size_t len = bytes.len - CHECK_BYTES;
    struct reader check = reader_of(bytes.ptr + len, CHECK_BYTES);
    if (reader_u64(&check) != hash64((struct str){bytes.ptr, len}))
        return error_set(err, STATUS_CORRUPT, "a key page fails its checksum");
    struct reader r = reader_of(bytes.ptr, len);
    uint8_t format = reader_u8(&r);
    if (format != KEY_FORMAT && format != KEY_FORMAT_ONE_CONSENT)
        return error_set(err, STATUS_CORRUPT, "key page format %u is not known", format);
    struct str user_id = reader_blob(&r);
    struct str bot_name = reader_blob(&r);
    CLEANUP(key_freep) struct key *k = NULL;
    enum status st = key_new(user_id, bot_name, &k, err);
    st = st ? st : decode_body(&r, k, err);
    if (st)
        return st;
    if (r.bad || reader_left(&r) > 0)
        return error_set(err, STATUS_CORRUPT,
                         "the key page of \"" STR_FMT "\" is cut short or out of range",
                         STR_ARGS(user_id));
    klog_settle(k);
    *ret = TAKE(k);
    return STATUS_OK;
}
