#include "engines/metrics.h"

#include "core/clock.h"
#include "core/hash.h"
#include "engines/record.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define FUTURE_SLACK_US (5 * US_PER_MINUTE)

/* ---- life ---- */

enum status metrics_new(struct metrics **ret)
{
    struct metrics *m = calloc(1, sizeof(*m));
    if (!m)
        return STATUS_NOMEM;
    m->user_days_full = INT32_MIN;
    *ret = m;
    return STATUS_OK;
}

static void stream_deinit(struct metric_stream *s)
{
    free(s->buckets);
    free(s->detector);
}

void metrics_free(struct metrics *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->n_streams; i++)
        stream_deinit(&m->streams[i]);
    free(m->streams);
    free(m->user_days);
    free(m->latencies);
    free(m->points[0].slots);
    free(m->points[1].slots);
    voice_deinit(&m->voice);
    free(m);
}

size_t metrics_bytes(const struct metrics *m)
{
    if (!m)
        return 0;
    size_t n = sizeof(*m) + voice_bytes(&m->voice) + m->cap_streams * sizeof(*m->streams) +
               m->cap_user_days * sizeof(*m->user_days) + m->cap_latencies * sizeof(*m->latencies);
    n += ((size_t)m->points[0].cap + m->points[1].cap) * sizeof(*m->points[0].slots);
    for (size_t i = 0; i < m->n_streams; i++)
        n += m->streams[i].cap * sizeof(struct metric_bucket) + sizeof(struct detector);
    return n;
}

int32_t metric_hour(int64_t t_us)
{
    return (int32_t)(time_floor_us(t_us, US_PER_HOUR) / US_PER_HOUR);
}

int32_t metric_first_hour(int64_t as_of_us, int window_hours)
{
    return metric_hour(as_of_us) - window_hours;
}

int32_t metric_first_day(int64_t as_of_us, int window_hours)
{
    return kernel_day((int64_t)metric_first_hour(as_of_us, window_hours) * US_PER_HOUR);
}

/* Room for one more item in an array that doubles. */
static bool grow(void *items, uint32_t *cap, uint32_t n, size_t size)
{
    if (n < *cap)
        return true;
    uint32_t more = *cap ? *cap * 2 : 4;
    void **at = items;
    void *grown = reallocarray(*at, more, size);
    if (!grown)
        return false;
    *at = grown;
    *cap = more;
    return true;
}

/* ---- points that may come again ---- */

static struct metric_point *point_slot(const struct point_set *s, uint64_t id)
{
    uint32_t i = (uint32_t)hash64_mix(id) & (s->cap - 1);
    while (s->slots[i].id && s->slots[i].id != id)
        i = (i + 1) & (s->cap - 1);
    return &s->slots[i];
}

static struct metric_point *points_find(struct metrics *m, uint64_t id)
{
    for (int g = 0; g < 2; g++) {
        struct metric_point *p = m->points[g].cap ? point_slot(&m->points[g], id) : NULL;
        if (p && p->id)
            return p;
    }
    return NULL;
}

bool point_set_put(struct point_set *s, uint64_t id, int64_t value)
{
    if (s->n * 2 >= s->cap) {
        struct point_set grown = {.cap = s->cap ? s->cap * 2 : 16};
        grown.slots = calloc(grown.cap, sizeof(*grown.slots));
        if (!grown.slots)
            return false;
        for (uint32_t i = 0; i < s->cap; i++)
            if (s->slots[i].id)
                *point_slot(&grown, s->slots[i].id) = s->slots[i];
        grown.n = s->n;
        free(s->slots);
        *s = grown;
    }
    *point_slot(s, id) = (struct metric_point){id, value};
    s->n++;
    return true;
}

static bool points_remember(struct metrics *m, uint64_t id, int64_t value)
{
    if (m->points[0].n == METRIC_POINTS) {
        free(m->points[1].slots);
        m->points[1] = m->points[0];
        m->points[0] = (struct point_set){0};
    }
    return point_set_put(&m->points[0], id, value);
}

static uint64_t point_id(const struct metric_feature *f, const struct metric_value *v, int64_t t_us)
{
    uint64_t id = hash64_mix(f->series + hash64_mix((uint64_t)t_us + hash64_mix(v->stream + 1)));
    return id ? id : 1;
}

/* ---- streams ---- */

static uint32_t stream_position(const struct metrics *m, uint64_t id)
{
    uint32_t low = 0, high = m->n_streams;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (m->streams[mid].id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

const struct metric_stream *metrics_stream(const struct metrics *m, uint64_t id)
{
    uint32_t at = stream_position(m, id);
    return at < m->n_streams && m->streams[at].id == id ? &m->streams[at] : NULL;
}

/* Makes room by giving up the stream that was quiet for longest; false: all have points. */
static bool give_up_quiet_stream(struct metrics *m, int64_t horizon_us)
{
    uint32_t quiet = 0;
    for (uint32_t i = 1; i < m->n_streams; i++)
        if (m->streams[i].newest_us < m->streams[quiet].newest_us)
            quiet = i;
    if (m->streams[quiet].newest_us >= horizon_us)
        return false;
    stream_deinit(&m->streams[quiet]);
    m->n_streams--;
    memmove(&m->streams[quiet], &m->streams[quiet + 1],
            (m->n_streams - quiet) * sizeof(*m->streams));
    return true;
}

/* *ret is NULL when there is no room for a new name. */
static enum status open_stream(struct metrics *m, const struct metric_value *v, int64_t horizon_us,
                               struct metric_stream **ret)
{
    uint32_t at = stream_position(m, v->stream);
    *ret = NULL;
    if (at < m->n_streams && m->streams[at].id == v->stream) {
        *ret = &m->streams[at];
        return STATUS_OK;
    }
    if (m->n_streams == METRIC_STREAMS) {
        if (!give_up_quiet_stream(m, horizon_us))
            return STATUS_OK;
        at = stream_position(m, v->stream);
    }
    struct detector *detector = malloc(sizeof(*detector));
    if (!detector || !grow(&m->streams, &m->cap_streams, m->n_streams, sizeof(*m->streams))) {
        free(detector);
        return STATUS_NOMEM;
    }
    detector_init(detector);
    memmove(&m->streams[at + 1], &m->streams[at], (m->n_streams - at) * sizeof(*m->streams));
    m->n_streams++;
    m->streams[at] = (struct metric_stream){.id = v->stream,
                                            .newest_us = INT64_MIN,
                                            .metric = v->metric,
                                            .name_len = v->name_len,
                                            .detector = detector};
    memcpy(m->streams[at].name, v->name, sizeof(v->name));
    *ret = &m->streams[at];
    return STATUS_OK;
}

static uint32_t bucket_position(const struct metric_stream *s, int32_t hour)
{
    if (s->n_buckets && s->buckets[s->n_buckets - 1].hour < hour)
        return s->n_buckets; /* in order: nearly always */
    uint32_t low = 0, high = s->n_buckets;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (s->buckets[mid].hour < hour)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static struct metric_bucket *find_bucket(const struct metric_stream *s, int32_t hour)
{
    uint32_t at = bucket_position(s, hour);
    return at < s->n_buckets && s->buckets[at].hour == hour ? &s->buckets[at] : NULL;
}

static struct metric_bucket *open_bucket(struct metric_stream *s, int32_t hour)
{
    struct metric_bucket *found = find_bucket(s, hour);
    if (found)
        return found;
    if (!grow(&s->buckets, &s->cap, s->n_buckets, sizeof(*s->buckets)))
        return NULL;
    uint32_t at = bucket_position(s, hour);
    memmove(&s->buckets[at + 1], &s->buckets[at], (s->n_buckets - at) * sizeof(*s->buckets));
    s->buckets[at] = (struct metric_bucket){.hour = hour};
    s->n_buckets++;
    return &s->buckets[at];
}

static void bucket_change(struct metric_bucket *b, bool score, int64_t value, int sign)
{
    b->sum += sign * (int128)value;
    b->n += (uint32_t)sign;
    uint64_t square = score ? (uint64_t)value * (uint64_t)value : 0;
    b->sum2 += sign > 0 ? square : 0 - square;
}

struct metric_bucket metric_sum(const struct metric_stream *s, int32_t from, int32_t to)
{
    struct metric_bucket sum = {.hour = from};
    for (uint32_t i = bucket_position(s, from); i < s->n_buckets && s->buckets[i].hour < to; i++) {
        sum.n += s->buckets[i].n;
        sum.sum += s->buckets[i].sum;
        sum.sum2 += s->buckets[i].sum2;
    }
    return sum;
}

/* ---- users and latencies ---- */

static int user_metric_of(enum metric metric)
{
    if (metric == METRIC_ENGAGEMENT)
        return USER_ENGAGEMENT;
    if (metric == METRIC_SATISFACTION)
        return USER_SATISFACTION;
    if (metric == METRIC_COHERENCE)
        return USER_COHERENCE;
    return metric == METRIC_NATURAL_FLOW || metric == METRIC_TOPIC_RELEVANCE ? USER_FLOW : -1;
}

static uint32_t user_day_position(const struct metrics *m, int32_t day, uint64_t user)
{
    uint32_t low = 0, high = m->n_user_days;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        const struct user_day *u = &m->user_days[mid];
        if (u->day < day || (u->day == day && u->user < user))
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static struct user_day *find_user_day(const struct metrics *m, int32_t day, uint64_t user)
{
    uint32_t at = user_day_position(m, day, user);
    bool found =
        at < m->n_user_days && m->user_days[at].day == day && m->user_days[at].user == user;
    return found ? &m->user_days[at] : NULL;
}

static enum status user_day_add(struct metrics *m, int which, int32_t day, uint64_t user,
                                int64_t value)
{
    struct user_day *u = find_user_day(m, day, user);
    if (!u && m->n_user_days == METRIC_USER_DAYS) {
        if (day > m->user_days_full)
            m->user_days_full = day;
        return STATUS_OK;
    }
    if (!u) {
        if (!grow(&m->user_days, &m->cap_user_days, m->n_user_days, sizeof(*m->user_days)))
            return STATUS_NOMEM;
        uint32_t at = user_day_position(m, day, user);
        u = &m->user_days[at];
        memmove(u + 1, u, (m->n_user_days - at) * sizeof(*u));
        *u = (struct user_day){.user = user, .day = day};
        m->n_user_days++;
    }
    u->n[which]++;
    u->sum[which] += value;
    return STATUS_OK;
}

static void user_day_take(struct metrics *m, int which, int32_t day, uint64_t user, int64_t value)
{
    struct user_day *u = find_user_day(m, day, user);
    if (!u || u->n[which] == 0)
        return; /* there was no room for it: its day is known to be incomplete */
    u->n[which]--;
    u->sum[which] -= value < u->sum[which] ? value : u->sum[which];
}

static uint32_t *latency_count(struct metrics *m, int32_t day, enum metric metric, int64_t value)
{
    uint32_t at = 0;
    while (at < m->n_latencies && m->latencies[at].day < day)
        at++;
    if (at == m->n_latencies || m->latencies[at].day != day) {
        if (!grow(&m->latencies, &m->cap_latencies, m->n_latencies, sizeof(*m->latencies)))
            return NULL;
        memmove(&m->latencies[at + 1], &m->latencies[at],
                (m->n_latencies - at) * sizeof(*m->latencies));
        memset(&m->latencies[at], 0, sizeof(*m->latencies));
        m->latencies[at].day = day;
        m->n_latencies++;
    }
    int64_t ms = (value + METRIC_SCALE / 2) / METRIC_SCALE;
    ms = ms < 0 ? 0 : ms > UINT16_MAX ? UINT16_MAX : ms;
    return &m->latencies[at].count[metric - METRIC_RESPONSE_TIME][hist_bucket((uint32_t)ms)];
}

/* ---- a value in and out ---- */

static enum status value_add(struct metrics *m, struct metric_stream *s, uint64_t user,
                             int64_t t_us, int64_t as_of_us, int64_t value,
                             struct metrics_change *ret)
{
    enum metric metric = s->metric;
    uint32_t buckets = s->n_buckets;
    struct metric_bucket *b = open_bucket(s, metric_hour(t_us));
    if (!b)
        return STATUS_NOMEM;
    ret->urgent |= s->n_buckets > buckets;
    bucket_change(b, metric_is_score(metric), value, 1);
    m->n_points++;
    int32_t day = kernel_day(t_us);
    int which = user_metric_of(metric);
    if (which >= 0 && user && day >= metric_first_day(as_of_us, METRIC_USER_WINDOW) &&
        user_day_add(m, which, day, user, value))
        return STATUS_NOMEM;
    if (!metric_is_latency(metric))
        return STATUS_OK;
    uint32_t *count = latency_count(m, day, metric, value);
    if (!count)
        return STATUS_NOMEM;
    ++*count;
    return STATUS_OK;
}

static void value_take(struct metrics *m, struct metric_stream *s, uint64_t user, int64_t t_us,
                       int64_t value)
{
    enum metric metric = s->metric;
    struct metric_bucket *b = find_bucket(s, metric_hour(t_us));
    if (!b || b->n == 0)
        return; /* two points share a hash: the sums of a bucket must stay sums */
    bucket_change(b, metric_is_score(metric), value, -1);
    m->n_points--;
    int32_t day = kernel_day(t_us);
    int which = user_metric_of(metric);
    if (which >= 0 && user)
        user_day_take(m, which, day, user, value);
    uint32_t *count = metric_is_latency(metric) ? latency_count(m, day, metric, value) : NULL;
    if (count && *count)
        --*count;
}

static enum status apply_value(struct metrics *m, const struct metric_feature *f,
                               const struct metric_value *v, int64_t t_us, int64_t as_of_us,
                               struct metrics_change *ret)
{
    int64_t horizon_us = time_floor_us(as_of_us, US_PER_HOUR) - RECORD_WINDOW_US;
    bool late = t_us < horizon_us;
    struct metric_stream *s = NULL;
    enum status st = open_stream(m, v, horizon_us, &s);
    if (st)
        return st;
    const struct metric_bucket *hour = s ? find_bucket(s, metric_hour(t_us)) : NULL;
    if (!s || (hour && hour->n == METRIC_BUCKET_N_MAX)) {
        m->dropped++;
        return STATUS_OK;
    }
    ret->n++;
    ret->late |= late;
    uint64_t id = point_id(f, v, t_us);
    struct metric_point *known = points_find(m, id);
    if (t_us > s->newest_us)
        s->newest_us = t_us;
    if (!known && t_us <= as_of_us + FUTURE_SLACK_US) {
        detector_point(s->detector, t_us, (double)v->value / METRIC_SCALE);
        ret->urgent |= detector_alarm(s->detector);
    }
    if (!late && known)
        value_take(m, s, f->user, t_us, known->value);
    if (known)
        known->value = v->value;
    else if (!points_remember(m, id, v->value))
        return STATUS_NOMEM;
    ret->applied |= !late;
    return late ? STATUS_OK : value_add(m, s, f->user, t_us, as_of_us, v->value, ret);
}

enum status metrics_apply(struct metrics *m, const struct metric_feature *f, int64_t t_us,
                          int64_t as_of_us, struct metrics_change *ret)
{
    *ret = (struct metrics_change){0};
    m->urgent = false;
    for (size_t i = 0; i < f->n_values; i++) {
        enum status st = apply_value(m, f, &f->values[i], t_us, as_of_us, ret);
        if (st)
            return st;
    }
    m->urgent = ret->urgent;
    return STATUS_OK;
}

bool metrics_character(struct metrics *m, const struct character_feature *f, int64_t t_us)
{
    if (m->has_character &&
        (t_us < m->character_us || (t_us == m->character_us && f->version < m->character.version)))
        return false;
    bool changed =
        !m->has_character || character_definition(f) != character_definition(&m->character);
    m->has_character = true;
    m->character_us = t_us;
    m->character = *f;
    return changed;
}

void metrics_expire(struct metrics *m, int64_t as_of_us)
{
    int32_t hour = metric_hour(time_floor_us(as_of_us, US_PER_HOUR) - RECORD_WINDOW_US);
    for (uint32_t i = 0; i < m->n_streams; i++) {
        struct metric_stream *s = &m->streams[i];
        uint32_t gone = bucket_position(s, hour);
        for (uint32_t k = 0; k < gone; k++)
            m->n_points -= s->buckets[k].n;
        s->n_buckets -= gone;
        if (gone && s->n_buckets)
            memmove(s->buckets, s->buckets + gone, s->n_buckets * sizeof(*s->buckets));
    }
    uint32_t users = user_day_position(m, metric_first_day(as_of_us, METRIC_USER_WINDOW), 0);
    m->n_user_days -= users;
    if (users && m->n_user_days)
        memmove(m->user_days, m->user_days + users, m->n_user_days * sizeof(*m->user_days));
    uint32_t days = 0;
    int32_t first_day = kernel_day((int64_t)hour * US_PER_HOUR);
    voice_expire(&m->voice, hour, first_day);
    while (days < m->n_latencies && m->latencies[days].day < first_day)
        days++;
    m->n_latencies -= days;
    if (days && m->n_latencies)
        memmove(m->latencies, m->latencies + days, m->n_latencies * sizeof(*m->latencies));
}

uint32_t metrics_forget_user(struct metrics *m, uint64_t user, int32_t day)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < m->n_user_days; i++)
        if (m->user_days[i].user != user || m->user_days[i].day > day)
            m->user_days[kept++] = m->user_days[i];
    uint32_t gone = m->n_user_days - kept;
    m->n_user_days = kept;
    return gone;
}
