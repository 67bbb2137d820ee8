/*
 * The metrics part of a bot's key page: streams with their hours and detectors, user days,
 * latencies, remembered points (sorted by id: the bytes must not depend on a hash table's history),
 * the character, the voice. Hours and days are differences to the one before.
 */
#include "core/limits.h"
#include "engines/codec.h"
#include "engines/metrics.h"

#include <stdlib.h>

#define HOUR_MAX (INT64_C(1) << 28) /* far beyond the year 9999 */

static enum status put_int128(struct buf *out, int128 v)
{
    enum status st = buf_put_svarint(out, (int64_t)(v >> 64));
    return st ? st : buf_put_varint(out, (uint64_t)v);
}

static enum status put_stream(const struct metric_stream *s, struct buf *out)
{
    enum status st = buf_put_u64(out, s->id);
    st = st ? st : buf_put_u8(out, s->metric);
    st = st ? st : buf_put_bytes(out, (struct str){s->name, s->name_len});
    st = st ? st : buf_put_svarint(out, s->newest_us);
    st = st ? st : buf_put_varint(out, s->n_buckets);
    int32_t hour = 0;
    for (uint32_t i = 0; i < s->n_buckets; i++) {
        const struct metric_bucket *b = &s->buckets[i];
        st = st ? st : buf_put_svarint(out, b->hour - hour);
        st = st ? st : buf_put_varint(out, b->n);
        st = st ? st : put_int128(out, b->sum);
        if (metric_is_score(s->metric))
            st = st ? st : buf_put_varint(out, b->sum2);
        hour = b->hour;
    }
    return st ? st : detector_encode(s->detector, out);
}

static enum status put_user_days(const struct metrics *m, struct buf *out)
{
    enum status st = buf_put_svarint(out, m->user_days_full);
    st = st ? st : buf_put_varint(out, m->n_user_days);
    int32_t day = 0;
    for (uint32_t i = 0; i < m->n_user_days; i++) {
        const struct user_day *u = &m->user_days[i];
        st = st ? st : buf_put_svarint(out, u->day - day);
        st = st ? st : buf_put_u64(out, u->user);
        for (int k = 0; k < USER_METRICS; k++) {
            st = st ? st : buf_put_varint(out, u->n[k]);
            st = st ? st : buf_put_varint(out, (uint64_t)u->sum[k]);
        }
        day = u->day;
    }
    return st;
}

static enum status put_latencies(const struct metrics *m, struct buf *out)
{
    enum status st = buf_put_varint(out, m->n_latencies);
    for (uint32_t i = 0; i < m->n_latencies; i++) {
        const struct latency_day *l = &m->latencies[i];
        st = st ? st : buf_put_svarint(out, l->day);
        for (int k = 0; k < METRIC_LATENCIES; k++) {
            /* Runs of empty buckets are one number. */
            for (size_t b = 0; !st && b < HIST_BUCKETS; b++) {
                size_t empty = 0;
                while (b + empty < HIST_BUCKETS && l->count[k][b + empty] == 0)
                    empty++;
                st = buf_put_varint(out, empty);
                b += empty;
                if (!st && b < HIST_BUCKETS)
                    st = buf_put_varint(out, l->count[k][b]);
            }
        }
    }
    return st;
}

static int compare_points(const void *a, const void *b)
{
    const struct metric_point *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static enum status put_points(const struct point_set *s, struct buf *out)
{
    struct metric_point *sorted = malloc((s->n + 1) * sizeof(*sorted));
    if (!sorted)
        return STATUS_NOMEM;
    size_t n = 0;
    for (uint32_t i = 0; i < s->cap; i++)
        if (s->slots[i].id)
            sorted[n++] = s->slots[i];
    qsort(sorted, n, sizeof(*sorted), compare_points);
    enum status st = buf_put_varint(out, n);
    for (size_t i = 0; i < n && !st; i++) {
        st = buf_put_u64(out, sorted[i].id);
        st = st ? st : buf_put_svarint(out, sorted[i].value);
    }
    free(sorted);
    return st;
}

static enum status put_character(const struct metrics *m, struct buf *out)
{
    enum status st = buf_put_u8(out, m->has_character);
    if (st || !m->has_character)
        return st;
    struct writer w;
    st = codec_begin(out, METRIC_FEATURE_BYTES + 16, &w);
    if (st)
        return st;
    put_svarint(&w, m->character_us);
    character_feature_put(&w, &m->character);
    codec_end(out, &w);
    return STATUS_OK;
}

enum status metrics_encode(const struct metrics *m, struct buf *out)
{
    enum status st = buf_put_varint(out, m->n_streams);
    for (uint32_t i = 0; i < m->n_streams && !st; i++)
        st = put_stream(&m->streams[i], out);
    st = st ? st : put_user_days(m, out);
    st = st ? st : put_latencies(m, out);
    for (int g = 0; g < 2; g++)
        st = st ? st : put_points(&m->points[g], out);
    st = st ? st : buf_put_varint(out, m->dropped);
    st = st ? st : put_character(m, out);
    return st ? st : voice_encode(&m->voice, out);
}

/* ---- decoding ---- */

static int32_t get_number(struct reader *r, int64_t previous)
{
    int64_t v = 0;
    if (__builtin_add_overflow(previous, reader_svarint(r), &v) || v < -HOUR_MAX || v > HOUR_MAX) {
        r->bad = true;
        return 0;
    }
    return (int32_t)v;
}

static int128 get_int128(struct reader *r)
{
    int64_t high = reader_svarint(r);
    uint64_t low = reader_varint(r);
    return (int128)high * ((int128)1 << 64) + (int128)low;
}

/* A count of things of at least one byte each; 0 when there cannot be that many. */
static uint32_t get_count(struct reader *r, uint64_t max)
{
    uint64_t n = reader_varint_max(r, max);
    r->bad |= n > reader_left(r);
    return r->bad ? 0 : (uint32_t)n;
}

static enum status get_buckets(struct reader *r, struct metric_stream *s, struct metrics *m)
{
    uint32_t n = get_count(r, UINT32_MAX);
    s->buckets = n ? calloc(n, sizeof(*s->buckets)) : NULL;
    if (n && !s->buckets)
        return STATUS_NOMEM;
    s->cap = n;
    int64_t hour = INT64_MIN;
    for (; s->n_buckets < n && !r->bad; s->n_buckets++) {
        struct metric_bucket *b = &s->buckets[s->n_buckets];
        b->hour = get_number(r, hour == INT64_MIN ? 0 : hour);
        b->n = (uint32_t)reader_varint_max(r, METRIC_BUCKET_N_MAX);
        b->sum = get_int128(r);
        b->sum2 = metric_is_score(s->metric) ? reader_varint(r) : 0;
        const int128 bound = (int128)METRIC_BUCKET_N_MAX * METRIC_SCALE * (int64_t)METRIC_VALUE_MAX;
        r->bad |= b->hour <= hour || b->sum > bound || b->sum < -bound;
        hour = b->hour;
        m->n_points += b->n;
    }
    return STATUS_OK;
}

static enum status get_stream(struct reader *r, struct metric_stream *s, struct metrics *m,
                              struct error *err)
{
    s->id = reader_u64(r);
    s->metric = reader_u8(r);
    struct str name = reader_blob(r);
    s->newest_us = reader_svarint(r);
    bool named = s->metric == METRIC_OTHER;
    if (s->metric >= METRIC_COUNT || name.len > METRIC_NAME_BYTES ||
        (named ? s->id < METRIC_COUNT : s->id != s->metric || name.len > 0)) {
        r->bad = true;
        return STATUS_OK;
    }
    s->name_len = (uint8_t)name.len;
    if (name.len)
        memcpy(s->name, name.ptr, name.len);
    enum status st = get_buckets(r, s, m);
    s->detector = st ? NULL : malloc(sizeof(*s->detector));
    if (!s->detector)
        return STATUS_NOMEM;
    detector_init(s->detector);
    return r->bad ? STATUS_OK : detector_decode(s->detector, r, err);
}

static enum status get_streams(struct reader *r, struct metrics *m, struct error *err)
{
    uint32_t n = get_count(r, METRIC_STREAMS);
    m->streams = n ? calloc(n, sizeof(*m->streams)) : NULL;
    if (n && !m->streams)
        return STATUS_NOMEM;
    m->cap_streams = n;
    enum status st = STATUS_OK;
    while (!st && !r->bad && m->n_streams < n) {
        struct metric_stream *s = &m->streams[m->n_streams++];
        st = get_stream(r, s, m, err);
        r->bad |= m->n_streams > 1 && s->id <= s[-1].id;
    }
    return st;
}

static enum status get_user_days(struct reader *r, struct metrics *m)
{
    int64_t full = reader_svarint(r);
    r->bad |= full < INT32_MIN || full > INT32_MAX;
    m->user_days_full = r->bad ? INT32_MIN : (int32_t)full;
    uint32_t n = get_count(r, METRIC_USER_DAYS);
    m->user_days = n ? calloc(n, sizeof(*m->user_days)) : NULL;
    if (n && !m->user_days)
        return STATUS_NOMEM;
    m->cap_user_days = n;
    for (; m->n_user_days < n && !r->bad; m->n_user_days++) {
        struct user_day *u = &m->user_days[m->n_user_days];
        u->day = get_number(r, m->n_user_days ? u[-1].day : 0);
        u->user = reader_u64(r);
        for (int k = 0; k < USER_METRICS; k++) {
            u->n[k] = (uint32_t)reader_varint_max(r, UINT32_MAX);
            u->sum[k] = (int64_t)reader_varint_max(r, INT64_MAX / 2);
        }
        r->bad |= m->n_user_days &&
                  (u->day < u[-1].day || (u->day == u[-1].day && u->user <= u[-1].user));
    }
    return STATUS_OK;
}

static enum status get_latencies(struct reader *r, struct metrics *m)
{
    uint32_t n = get_count(r, 64);
    m->latencies = n ? calloc(n, sizeof(*m->latencies)) : NULL;
    if (n && !m->latencies)
        return STATUS_NOMEM;
    m->cap_latencies = n;
    for (; m->n_latencies < n && !r->bad; m->n_latencies++) {
        struct latency_day *l = &m->latencies[m->n_latencies];
        l->day = get_number(r, 0);
        r->bad |= m->n_latencies && l->day <= l[-1].day;
        for (int k = 0; k < METRIC_LATENCIES; k++)
            for (size_t b = 0; b < HIST_BUCKETS && !r->bad; b++) {
                b += reader_varint_max(r, HIST_BUCKETS - b);
                if (b < HIST_BUCKETS)
                    l->count[k][b] = (uint32_t)reader_varint_max(r, UINT32_MAX);
            }
    }
    return STATUS_OK;
}

static enum status get_points(struct reader *r, struct point_set *s)
{
    uint32_t n = get_count(r, METRIC_POINTS);
    uint64_t previous = 0;
    for (uint32_t i = 0; i < n && !r->bad; i++) {
        uint64_t id = reader_u64(r);
        int64_t value = reader_svarint(r);
        r->bad |= id <= previous;
        previous = id;
        if (!r->bad && !point_set_put(s, id, value))
            return STATUS_NOMEM;
    }
    return STATUS_OK;
}

static enum status decode_body(struct reader *r, struct metrics *m, struct error *err)
{
    enum status st = get_streams(r, m, err);
    st = st ? st : get_user_days(r, m);
    st = st ? st : get_latencies(r, m);
    for (int g = 0; g < 2; g++)
        st = st ? st : get_points(r, &m->points[g]);
    m->dropped = reader_varint(r);
    uint8_t has_character = reader_u8(r);
    r->bad |= has_character > 1;
    m->has_character = has_character;
    if (has_character && !r->bad) {
        m->character_us = reader_svarint(r);
        character_feature_get(r, &m->character);
    }
    return st || r->bad ? st : voice_decode(r, &m->voice);
}

enum status metrics_decode(struct reader *r, struct metrics **ret, struct error *err)
{
    CLEANUP(metrics_freep) struct metrics *m = NULL;
    enum status st = metrics_new(&m);
    st = st ? st : decode_body(r, m, err);
    if (st == STATUS_NOMEM)
        return error_set(err, st, "could not allocate the metrics of a bot");
    if (!st && r->bad)
        st = error_set(err, STATUS_CORRUPT, "the metrics of a bot are cut short or out of range");
    if (st)
        return st;
    *ret = TAKE(m);
    return STATUS_OK;
}
