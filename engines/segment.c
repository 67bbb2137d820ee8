#include "engines/segment.h"

#include "engines/vector.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define WEIGHT_USER 2
#define WEIGHT_BOT  1

/* Cosines from which a message can return to the segment before the last one. */
#define RETURN_EMBEDDING (SWITCH_ONE / 4)
#define RETURN_TEXT      (SWITCH_ONE / 2)
#define GAP_MAX          (8 * SWITCH_ONE)

/* Every message of a session puts its largest weight into one bucket, at most. */
_Static_assert(RECORD_SESSION_MAX * 127 <= INT16_MAX, "sums of a session fit int16_t");
_Static_assert(RECORD_SESSION_MAX < UINT8_MAX, "records of a session are counted in uint8_t");

void segmenter_start(struct segmenter *s, struct switch_threshold threshold)
{
    memset(s, 0, sizeof(*s));
    s->threshold = threshold;
}

/* ---- embeddings ---- */

static int64_t near_dot(const int16_t *sum, const int8_t *v)
{
    int64_t dot = 0;
    for (size_t i = 0; i < RECORD_EMBEDDING; i++)
        dot += (int64_t)sum[i] * v[i];
    return dot;
}

static uint64_t near_norm2(const int16_t *sum)
{
    int64_t norm2 = 0;
    for (size_t i = 0; i < RECORD_EMBEDDING; i++)
        norm2 += (int64_t)sum[i] * sum[i];
    return (uint64_t)norm2;
}

static void near_add(int16_t *sum, const int8_t *v)
{
    for (size_t i = 0; i < RECORD_EMBEDDING; i++)
        sum[i] = (int16_t)(sum[i] + v[i]);
}

static const struct embedding *embedding_of(const struct key_log *log, const struct msg_rec *m)
{
    return m->embedding ? &log->embeddings[m->embedding - 1] : NULL;
}

static uint64_t embedding_norm2(const struct embedding *e)
{
    int16_t wide[RECORD_EMBEDDING] = {0};
    near_add(wide, e->v);
    return near_norm2(wide);
}

/* A cosine of e with a sum of embeddings. */
static int32_t near(const struct embedding *e, uint64_t norm2, const int16_t *sum)
{
    return cosine_q8(near_dot(sum, e->v), norm2, near_norm2(sum));
}

/* The model has changed: nothing that was embedded before can be compared. */
static void near_forget(struct segmenter *s, uint32_t model)
{
    s->model = model;
    s->n_last = s->n_near = 0;
    memset(s->near_sum, 0, sizeof(s->near_sum));
    memset(s->session, 0, sizeof(s->session));
    for (size_t i = 0; i < 2; i++) {
        s->parts[i].n_near = 0;
        memset(s->parts[i].near, 0, sizeof(s->parts[i].near));
    }
}

static void near_features(struct segmenter *s, const struct key_log *log, size_t first,
                          const struct embedding *e, struct switch_input *in)
{
    const struct segment_part *part = &s->parts[s->current];
    uint64_t norm2 = embedding_norm2(e);
    int16_t sum[RECORD_EMBEDDING] = {0};
    int32_t most = INT32_MIN;
    for (size_t i = 0; i < s->n_last; i++) {
        int16_t one[RECORD_EMBEDDING] = {0};
        const int8_t *v = embedding_of(log, &log->messages[first + s->last[i]])->v;
        near_add(one, v);
        near_add(sum, v);
        int32_t with = near(e, norm2, one);
        most = with > most ? with : most;
        if (i < 2)
            s->near[i] = near(e, norm2, sum);
    }
    s->near[2] = near(e, norm2, sum);
    if (s->n_last == 1)
        s->near[1] = s->near[0];
    s->near[3] = part->n_near ? near(e, norm2, part->near) : s->near[2];
    for (size_t i = 0; i < SWITCH_NEAR; i++) {
        in->x[SWITCH_NEAR_1 + i] = s->near[i];
        in->x[SWITCH_NEAR_1_UNUSUAL + i] = s->n_near ? s->near[i] - s->near_sum[i] / s->n_near : 0;
    }
    in->x[SWITCH_NEAR_SESSION] = near(e, norm2, s->session);
    in->x[SWITCH_NEAR_MOST] = most;
    in->embedding = true;
}

static void near_push(struct segmenter *s, const struct embedding *e)
{
    if (s->by_embedding) {
        for (size_t i = 0; i < SWITCH_NEAR; i++)
            s->near_sum[i] += s->near[i];
        s->n_near++;
    }
    for (size_t i = SWITCH_NEAR - 1; i > 0; i--)
        s->last[i] = s->last[i - 1];
    s->last[0] = s->n;
    s->n_last = (uint8_t)(s->n_last < SWITCH_NEAR ? s->n_last + 1 : SWITCH_NEAR);
    near_add(s->session, e->v);
    near_add(s->parts[s->current].near, e->v);
    s->parts[s->current].n_near++;
}

/* ---- text ---- */

static int64_t part_dot(const struct segment_part *part, const struct msg_rec *m)
{
    int64_t dot = 0;
    for (size_t i = 0; i < m->n_vector; i++)
        dot += (int64_t)part->w[m->vector[i].bucket] * m->vector[i].weight;
    return dot;
}

static void part_add(struct segment_part *part, const struct msg_rec *m)
{
    for (size_t i = 0; i < m->n_vector; i++) {
        int16_t *w = &part->w[m->vector[i].bucket];
        int32_t old = *w, new = old + m->vector[i].weight;
        part->norm2 += (uint64_t)((int64_t) new *new - (int64_t)old *old);
        *w = (int16_t) new;
    }
}

/* The message of a withdrawn segment returns to the one it was taken from. */
static void part_merge(struct segment_part *into, const struct segment_part *from)
{
    into->norm2 = 0;
    for (size_t i = 0; i < VECTOR_DIMS; i++) {
        into->w[i] = (int16_t)(into->w[i] + from->w[i]);
        into->norm2 += (uint64_t)((int64_t)into->w[i] * into->w[i]);
    }
    for (size_t i = 0; i < RECORD_EMBEDDING; i++)
        into->near[i] = (int16_t)(into->near[i] + from->near[i]);
    into->n_near = (uint8_t)(into->n_near + from->n_near);
}

static int32_t flag(const struct msg_rec *m, enum msg_flag bit)
{
    return m && m->flags & bit ? SWITCH_ONE : 0;
}

static int32_t log_words(const struct msg_rec *m)
{
    return log2_q8(1u + m->words);
}

static int32_t log_gap(const struct msg_rec *before, const struct msg_rec *m)
{
    return log2_q8(1u + (uint32_t)((m->t_us - before->t_us) / 1000000));
}

/* Lengths, marks and pauses; before is m - 1. */
static void surface_features(const struct segmenter *s, const struct msg_rec *m, int32_t *x)
{
    const struct msg_rec *before = m - 1, *before_2 = s->n > 1 ? m - 2 : NULL;
    int32_t words = log_words(m), words_before = log_words(before);
    x[SWITCH_BIAS] = SWITCH_ONE;
    x[SWITCH_WORDS] = words;
    x[SWITCH_WORDS_CHANGE] = words - words_before;
    x[SWITCH_MEAN_WORDS] = s->words_sum / s->n;
    x[SWITCH_WORDS_UNUSUAL] = words - x[SWITCH_MEAN_WORDS];
    x[SWITCH_CHARS_CHANGE] = log2_q8(1u + m->chars) - log2_q8(1u + before->chars);
    x[SWITCH_QUESTION] = flag(m, MSG_QUESTION);
    x[SWITCH_EXCLAIM] = flag(m, MSG_EXCLAIM);
    x[SWITCH_END_PUNCT] = flag(m, MSG_END_PUNCT);
    x[SWITCH_QUESTION_BEFORE] = flag(before, MSG_QUESTION);
    x[SWITCH_EXCLAIM_BEFORE] = flag(before, MSG_EXCLAIM);
    x[SWITCH_END_PUNCT_BEFORE] = flag(before, MSG_END_PUNCT);
    x[SWITCH_QUESTION_BEFORE_2] = flag(before_2, MSG_QUESTION);
    x[SWITCH_QUESTIONS] = x[SWITCH_QUESTION] & x[SWITCH_QUESTION_BEFORE];
    x[SWITCH_SHORT_NOW] = m->words <= SWITCH_SHORT ? SWITCH_ONE : 0;
    x[SWITCH_SHORT_BEFORE] = before->words <= SWITCH_SHORT ? SWITCH_ONE : 0;
    x[SWITCH_WORDS_BEFORE] = words_before;
    x[SWITCH_QUESTION_RATE] = s->question_sum / s->n;
    if (before_2) {
        int32_t gap = log_gap(before, m) - s->gap_sum / (s->n - 1);
        x[SWITCH_GAP] = gap < 0 ? 0 : gap > GAP_MAX ? GAP_MAX : gap;
    }
}

static void position_features(const struct segmenter *s, int32_t *x)
{
    uint32_t at = s->n - (uint32_t)s->parts[s->current].first;
    size_t bin = at <= 4 ? at - 1 : at <= 6 ? 4 : at <= 9 ? 5 : 6;
    x[SWITCH_AT_1 + bin] = SWITCH_ONE;
    x[SWITCH_POSITION] = log2_q8(at);
    x[SWITCH_SESSION] = log2_q8(s->n);
    x[SWITCH_SESSION_1] = s->n == 1 ? SWITCH_ONE : 0;
    x[SWITCH_SESSION_2] = s->n == 2 ? SWITCH_ONE : 0;
}

/* How much of what m says was said in the last records, in the segment, in the session. */
static void overlap_features(const struct segmenter *s, const struct msg_rec *m, int32_t *x)
{
    enum { SPANS = 5 };
    const int32_t since[SPANS] = {s->n - 1, s->n - 2, s->n - 4, s->parts[s->current].first, 0};
    int32_t shared[SPANS] = {0}, total = 0;
    for (size_t i = 0; i < m->n_vector; i++) {
        uint8_t bucket = m->vector[i].bucket;
        int32_t idf = log2_q8(s->n + 2u) - log2_q8(s->df[bucket] + 1u);
        total += idf;
        for (size_t k = 0; k < SPANS && s->seen[bucket]; k++)
            shared[k] += s->seen[bucket] > since[k] ? idf : 0;
    }
    for (size_t k = 0; k < SPANS; k++)
        x[SWITCH_OVERLAP_1 + k] = total ? SWITCH_ONE * shared[k] / total : 0;
    int32_t new = SWITCH_ONE - x[SWITCH_OVERLAP_SESSION];
    x[SWITCH_INFORMATION] = log2_q8(1u + (uint32_t)total / SWITCH_ONE);
    x[SWITCH_OVERLAP_WORDS] = x[SWITCH_OVERLAP_1] * x[SWITCH_WORDS] / SWITCH_ONE;
    x[SWITCH_NEW_QUESTION] = x[SWITCH_QUESTION] * new / SWITCH_ONE;
    x[SWITCH_NEW_WORDS] = x[SWITCH_WORDS] * new / SWITCH_ONE;
    x[SWITCH_OVERLAP_ANSWER] = x[SWITCH_QUESTION_BEFORE] * x[SWITCH_OVERLAP_1] / SWITCH_ONE;
}

static void cosine_features(struct segmenter *s, const struct msg_rec *m, int32_t *x)
{
    const struct segment_part *part = &s->parts[s->current];
    int32_t four[VECTOR_DIMS] = {0};
    vector_add(four, m[-1].vector, m[-1].n_vector, 1);
    x[SWITCH_COSINE_1] = cosine_q8(vector_dot(four, m->vector, m->n_vector), m->norm2, m[-1].norm2);
    for (int i = 2; i <= SWITCH_NEAR && i <= s->n; i++)
        vector_add(four, m[-i].vector, m[-i].n_vector, 1);
    s->cosine = cosine_q8(vector_dot(four, m->vector, m->n_vector), m->norm2, vector_norm2(four));
    x[SWITCH_COSINE_4] = s->cosine;
    x[SWITCH_COSINE_SEGMENT] = cosine_q8(part_dot(part, m), m->norm2, part->norm2);
    x[SWITCH_COSINE_UNUSUAL] = s->n > 1 ? s->cosine - s->cosine_sum / (s->n - 1) : 0;
}

/* ---- the walk ---- */

static bool returns(const struct segmenter *s, const struct msg_rec *m, const struct embedding *e)
{
    const struct segment_part *opener = &s->parts[s->current], *left = &s->parts[!s->current];
    if (e && e->model == s->model && opener->n_near && left->n_near) {
        uint64_t norm2 = embedding_norm2(e);
        int32_t back = near(e, norm2, left->near);
        return back >= RETURN_EMBEDDING && back > near(e, norm2, opener->near);
    }
    int32_t back = cosine_q8(part_dot(left, m), m->norm2, left->norm2);
    return back >= RETURN_TEXT && back > cosine_q8(part_dot(opener, m), m->norm2, opener->norm2);
}

static uint32_t judge(struct segmenter *s, const struct key_log *log, size_t first,
                      const struct embedding *e)
{
    const struct msg_rec *m = &log->messages[first + s->n];
    struct switch_input in = {0};
    surface_features(s, m, in.x);
    position_features(s, in.x);
    overlap_features(s, m, in.x);
    cosine_features(s, m, in.x);
    if (e && e->model == s->model && s->n_last > 0)
        near_features(s, log, first, e, &in);
    memcpy(in.edge, m->edge, RECORD_EDGES);
    memcpy(in.edge + RECORD_EDGES, m[-1].edge, RECORD_EDGES);
    s->by_embedding = in.embedding;
    return m->n_vector || e ? switch_probability(&in) : 0;
}

/* Counts the record among those that later ones are compared with. */
static void push(struct segmenter *s, const struct msg_rec *m, const struct embedding *e)
{
    if (s->n > 0) {
        s->cosine_sum += s->cosine;
        s->gap_sum += log_gap(m - 1, m);
    }
    s->words_sum += log_words(m);
    s->question_sum += flag(m, MSG_QUESTION);
    for (size_t i = 0; i < m->n_vector; i++) {
        s->df[m->vector[i].bucket]++;
        s->seen[m->vector[i].bucket] = (uint8_t)(s->n + 1);
    }
    part_add(&s->parts[s->current], m);
    if (e && e->model != s->model)
        near_forget(s, e->model);
    if (e)
        near_push(s, e);
    s->n++;
}

void segmenter_add(struct segmenter *s, const struct key_log *log, size_t first)
{
    assert(s->n < RECORD_SESSION_MAX);
    assert(first + s->n < log->n_messages);
    const struct msg_rec *m = &log->messages[first + s->n];
    const struct embedding *e = embedding_of(log, m);
    if (s->opened && returns(s, m, e)) {
        part_merge(&s->parts[!s->current], &s->parts[s->current]);
        s->current = !s->current;
        s->n_starts--;
    }
    s->opened = s->by_embedding = false;
    if (s->n == 0) {
        s->n_starts = 1;
    } else {
        uint32_t p = judge(s, log, first, e);
        s->p[s->n] = (uint16_t)p;
        s->embedded[s->n] = s->by_embedding;
        s->opened = p >= (s->by_embedding ? s->threshold.embedding : s->threshold.text);
    }
    if (s->opened) {
        s->current = !s->current;
        s->parts[s->current] = (struct segment_part){.first = s->n};
        s->starts[s->n_starts++] = s->n;
    }
    push(s, m, e);
}

/* Keeps the largest entries, in order of size; entry counts are small, so insertion is fastest. */
static void compress(const int32_t *w, struct segment *s)
{
    s->n_vector = 0;
    s->norm2 = 0;
    for (size_t b = 0; b < VECTOR_DIMS; b++) {
        if (w[b] == 0)
            continue;
        size_t at = s->n_vector;
        while (at > 0 && abs(s->weight[at - 1]) < abs(w[b]))
            at--;
        if (at == RECORD_VECTOR)
            continue;
        if (s->n_vector < RECORD_VECTOR)
            s->n_vector++;
        for (size_t i = s->n_vector - 1u; i > at; i--) {
            s->bucket[i] = s->bucket[i - 1];
            s->weight[i] = s->weight[i - 1];
        }
        s->bucket[at] = (uint8_t)b;
        s->weight[at] = (int16_t)w[b];
    }
    for (size_t i = 0; i < s->n_vector; i++)
        s->norm2 += (uint64_t)((int64_t)s->weight[i] * s->weight[i]);
}

static void finish(const struct msg_rec *records, size_t begin, size_t end, struct segment *s)
{
    int32_t centroid[VECTOR_DIMS] = {0};
    memset(s, 0, sizeof(*s));
    s->first = (uint16_t)begin;
    s->n = (uint16_t)(end - begin);
    for (size_t i = begin; i < end; i++) {
        const struct msg_rec *m = &records[i];
        bool bot = m->flags & MSG_BOT;
        vector_add(centroid, m->vector, m->n_vector, bot ? WEIGHT_BOT : WEIGHT_USER);
        s->n_user = (uint16_t)(s->n_user + !bot);
        if (bot || !(m->flags & MSG_HAS_EMOTION))
            continue;
        s->n_valence++;
        s->valence_sum += m->valence;
    }
    compress(centroid, s);
}

void segmenter_segments(const struct segmenter *s, const struct key_log *log, size_t first,
                        struct segment *ret)
{
    for (size_t i = 0; i < s->n_starts; i++)
        finish(&log->messages[first], s->starts[i], i + 1u < s->n_starts ? s->starts[i + 1] : s->n,
               &ret[i]);
}

struct cluster {
    const struct segment *leader;
    size_t members;
    size_t order; /* of creation, for age */
};

static int64_t leader_dot(const int16_t *dense, const struct segment *leader)
{
    int64_t d = 0;
    for (size_t i = 0; i < leader->n_vector; i++)
        d += (int64_t)dense[leader->bucket[i]] * leader->weight[i];
    return d;
}

/* The nearest leader at a cosine of at least 1/4, or `n`. */
static size_t nearest(const struct cluster *clusters, size_t n, const struct segment *s)
{
    int16_t dense[VECTOR_DIMS] = {0};
    for (size_t i = 0; i < s->n_vector; i++)
        dense[s->bucket[i]] = s->weight[i];
    size_t best = n;
    int64_t best_dot = 0;
    for (size_t c = 0; c < n; c++) {
        uint64_t norm2 = clusters[c].leader->norm2;
        int64_t dot = leader_dot(dense, clusters[c].leader);
        if (cosine_below(dot, s->norm2, norm2, 1, 4))
            continue;
        int order = 1;
        if (best < n)
            order = cosine_compare(dot, norm2, best_dot, clusters[best].leader->norm2);
        if (order > 0 || (order == 0 && clusters[c].order < clusters[best].order)) {
            best = c;
            best_dot = dot;
        }
    }
    return best;
}

static size_t smallest(const struct cluster *clusters, size_t n)
{
    size_t worst = 0;
    for (size_t c = 1; c < n; c++) {
        const struct cluster *a = &clusters[c], *b = &clusters[worst];
        if (a->members < b->members || (a->members == b->members && a->order < b->order))
            worst = c;
    }
    return worst;
}

void segment_cluster(const struct segment *const *segments, size_t n, uint8_t *ret)
{
    assert(n <= SEGMENT_CLUSTERED_MAX);
    struct cluster clusters[SEGMENT_CLUSTERS_MAX];
    size_t n_clusters = 0;
    for (size_t i = 0; i < n; i++) {
        if (segments[i]->norm2 == 0) {
            ret[i] = SEGMENT_OTHER;
            continue;
        }
        size_t c = nearest(clusters, n_clusters, segments[i]);
        if (c < n_clusters) {
            clusters[c].members++;
            ret[i] = (uint8_t)c;
            continue;
        }
        if (n_clusters < SEGMENT_CLUSTERS_MAX) {
            n_clusters++;
        } else {
            c = smallest(clusters, n_clusters);
            for (size_t j = 0; j < i; j++)
                if (ret[j] == c)
                    ret[j] = SEGMENT_OTHER;
        }
        clusters[c] = (struct cluster){.leader = segments[i], .members = 1, .order = i};
        ret[i] = (uint8_t)c;
    }
}
