#include "engines/oracle/places.h"

#include "engines/epoch.h"
#include "engines/kernels.h"
#include "engines/switch_model.h"

#include <assert.h>
#include <string.h>

#define DIMS 256

/* Sums of the text vectors and of the embeddings of some messages. */
struct sums {
    int64_t w[DIMS];
    int64_t near[RECORD_EMBEDDING];
    size_t n_near;
};

/* A session as far as it is known: messages [0, n) are before the one that is looked at. */
struct scene {
    const struct feature *const *messages;
    struct oracle_place *places;
    size_t n;
    size_t segment; /* number of the open one */
};

static const struct msg_rec *record(const struct scene *s, size_t i)
{
    return &s->messages[i]->u.message;
}

/* The embedding of message i if it is of this model. */
static const struct embedding *embedded(const struct scene *s, size_t i, uint32_t model)
{
    const struct embedding *e = &s->messages[i]->embedding;
    return e->model && e->model == model ? e : NULL;
}

/* Adds messages [first, end) that belong to the segment, or all when it is SIZE_MAX. */
static struct sums add_up(const struct scene *s, size_t first, size_t end, size_t segment,
                          uint32_t model)
{
    struct sums sum = {.n_near = 0};
    for (size_t i = first; i < end; i++) {
        if (segment != SIZE_MAX && s->places[i].segment != segment)
            continue;
        const struct msg_rec *m = record(s, i);
        for (size_t e = 0; e < m->n_vector; e++)
            sum.w[m->vector[e].bucket] += m->vector[e].weight;
        const struct embedding *e = embedded(s, i, model);
        for (size_t d = 0; e && d < RECORD_EMBEDDING; d++)
            sum.near[d] += e->v[d];
        sum.n_near += e != NULL;
    }
    return sum;
}

static int64_t product(const int64_t *a, const int64_t *b, size_t n)
{
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static int32_t angle(const int64_t *a, const int64_t *b, size_t n)
{
    return cosine_q8(product(a, b, n), (uint64_t)product(a, a, n), (uint64_t)product(b, b, n));
}

static int32_t text_angle(const struct sums *a, const struct sums *b)
{
    return angle(a->w, b->w, DIMS);
}

static int32_t near_angle(const struct sums *a, const struct sums *b)
{
    return angle(a->near, b->near, RECORD_EMBEDDING);
}

static bool holds(const struct msg_rec *m, size_t bucket)
{
    for (size_t i = 0; i < m->n_vector; i++)
        if (m->vector[i].bucket == bucket)
            return true;
    return false;
}

static int32_t mark(const struct scene *s, size_t back, enum msg_flag flag)
{
    return back <= s->n && record(s, s->n - back)->flags & flag ? SWITCH_ONE : 0;
}

static int32_t words(const struct scene *s, size_t i)
{
    return log2_q8((uint32_t)record(s, i)->words + 1);
}

static int32_t pause_before(const struct scene *s, size_t i)
{
    int64_t us = s->messages[i]->t_us - s->messages[i - 1]->t_us;
    return log2_q8((uint32_t)(us / 1000000) + 1);
}

static void look_at_marks(const struct scene *s, int32_t *x)
{
    const struct msg_rec *m = record(s, s->n), *before = record(s, s->n - 1);
    int32_t n = (int32_t)s->n, sum_words = 0, sum_questions = 0, sum_pauses = 0;
    for (size_t i = 0; i < s->n; i++) {
        sum_words += words(s, i);
        sum_questions += record(s, i)->flags & MSG_QUESTION ? SWITCH_ONE : 0;
        sum_pauses += i > 0 ? pause_before(s, i) : 0;
    }
    x[SWITCH_BIAS] = SWITCH_ONE;
    x[SWITCH_WORDS] = words(s, s->n);
    x[SWITCH_WORDS_BEFORE] = words(s, s->n - 1);
    x[SWITCH_WORDS_CHANGE] = x[SWITCH_WORDS] - x[SWITCH_WORDS_BEFORE];
    x[SWITCH_MEAN_WORDS] = sum_words / n;
    x[SWITCH_WORDS_UNUSUAL] = x[SWITCH_WORDS] - x[SWITCH_MEAN_WORDS];
    x[SWITCH_CHARS_CHANGE] = log2_q8((uint32_t)m->chars + 1) - log2_q8((uint32_t)before->chars + 1);
    x[SWITCH_QUESTION] = mark(s, 0, MSG_QUESTION);
    x[SWITCH_EXCLAIM] = mark(s, 0, MSG_EXCLAIM);
    x[SWITCH_END_PUNCT] = mark(s, 0, MSG_END_PUNCT);
    x[SWITCH_QUESTION_BEFORE] = mark(s, 1, MSG_QUESTION);
    x[SWITCH_EXCLAIM_BEFORE] = mark(s, 1, MSG_EXCLAIM);
    x[SWITCH_END_PUNCT_BEFORE] = mark(s, 1, MSG_END_PUNCT);
    x[SWITCH_QUESTION_BEFORE_2] = mark(s, 2, MSG_QUESTION);
    x[SWITCH_QUESTIONS] = mark(s, 0, MSG_QUESTION) && mark(s, 1, MSG_QUESTION) ? SWITCH_ONE : 0;
    x[SWITCH_SHORT_NOW] = m->words <= 3 ? SWITCH_ONE : 0;
    x[SWITCH_SHORT_BEFORE] = before->words <= 3 ? SWITCH_ONE : 0;
    x[SWITCH_QUESTION_RATE] = sum_questions / n;
    if (n < 2)
        return;
    int32_t longer = pause_before(s, s->n) - sum_pauses / (n - 1);
    x[SWITCH_GAP] = longer < 0 ? 0 : longer > 8 * SWITCH_ONE ? 8 * SWITCH_ONE : longer;
}

static void look_at_position(const struct scene *s, size_t begin, int32_t *x)
{
    static const uint32_t upper[] = {1, 2, 3, 4, 6, 9, UINT32_MAX};
    uint32_t at = (uint32_t)(s->n - begin);
    size_t bin = 0;
    while (at > upper[bin])
        bin++;
    x[SWITCH_AT_1 + bin] = SWITCH_ONE;
    x[SWITCH_POSITION] = log2_q8(at);
    x[SWITCH_SESSION] = log2_q8((uint32_t)s->n);
    x[s->n == 1 ? SWITCH_SESSION_1 : SWITCH_SESSION_2] = s->n <= 2 ? SWITCH_ONE : 0;
}

/* The share of the message's idf that messages [first, n) hold. */
static int32_t share(const struct scene *s, size_t first, int32_t *ret_total)
{
    int32_t total = 0, shared = 0;
    const struct msg_rec *m = record(s, s->n);
    for (size_t e = 0; e < m->n_vector; e++) {
        size_t bucket = m->vector[e].bucket;
        uint32_t df = 0;
        bool found = false;
        for (size_t i = 0; i < s->n; i++) {
            df += holds(record(s, i), bucket);
            found = found || (i >= first && holds(record(s, i), bucket));
        }
        int32_t idf = log2_q8((uint32_t)s->n + 2) - log2_q8(df + 1);
        total += idf;
        shared += found ? idf : 0;
    }
    *ret_total = total;
    return total ? shared * SWITCH_ONE / total : 0;
}

static void look_at_overlap(const struct scene *s, size_t begin, int32_t *x)
{
    int32_t total = 0;
    x[SWITCH_OVERLAP_1] = share(s, s->n - 1, &total);
    x[SWITCH_OVERLAP_2] = share(s, s->n < 2 ? 0 : s->n - 2, &total);
    x[SWITCH_OVERLAP_4] = share(s, s->n < 4 ? 0 : s->n - 4, &total);
    x[SWITCH_OVERLAP_SEGMENT] = share(s, begin, &total);
    x[SWITCH_OVERLAP_SESSION] = share(s, 0, &total);
    int32_t unknown = SWITCH_ONE - x[SWITCH_OVERLAP_SESSION];
    x[SWITCH_INFORMATION] = log2_q8((uint32_t)(total / SWITCH_ONE) + 1);
    x[SWITCH_OVERLAP_WORDS] = x[SWITCH_OVERLAP_1] * x[SWITCH_WORDS] / SWITCH_ONE;
    x[SWITCH_NEW_QUESTION] = x[SWITCH_QUESTION] ? unknown : 0;
    x[SWITCH_NEW_WORDS] = x[SWITCH_WORDS] * unknown / SWITCH_ONE;
    x[SWITCH_OVERLAP_ANSWER] = x[SWITCH_QUESTION_BEFORE] ? x[SWITCH_OVERLAP_1] : 0;
}

/* Cosine of the vectors of message i and of the up to four before it. */
static int32_t with_last_four(const struct scene *s, size_t i)
{
    struct sums own = add_up(s, i, i + 1, SIZE_MAX, 0);
    struct sums four = add_up(s, i < SWITCH_NEAR ? 0 : i - SWITCH_NEAR, i, SIZE_MAX, 0);
    return text_angle(&own, &four);
}

static void look_at_cosines(const struct scene *s, int32_t *x)
{
    struct sums own = add_up(s, s->n, s->n + 1, SIZE_MAX, 0);
    struct sums one = add_up(s, s->n - 1, s->n, SIZE_MAX, 0);
    struct sums segment = add_up(s, 0, s->n, s->segment, 0);
    x[SWITCH_COSINE_1] = text_angle(&own, &one);
    x[SWITCH_COSINE_4] = with_last_four(s, s->n);
    x[SWITCH_COSINE_SEGMENT] = text_angle(&own, &segment);
    int32_t sum = 0;
    for (size_t i = 1; i < s->n; i++)
        sum += with_last_four(s, i);
    x[SWITCH_COSINE_UNUSUAL] = s->n > 1 ? x[SWITCH_COSINE_4] - sum / (int32_t)(s->n - 1) : 0;
}

/* What the embeddings of one model say at message i; what was said before is in `told`. */
struct told {
    uint32_t model;
    size_t n; /* messages judged with this model, and their sums */
    int32_t sum[SWITCH_NEAR];
    int32_t now[SWITCH_NEAR];
    size_t since; /* messages before are of another time: the model came anew */
};

static void look_at_embeddings(const struct scene *s, struct told *told, struct switch_input *in)
{
    const struct embedding *e = &s->messages[s->n]->embedding;
    struct sums last = {.n_near = 0}, own = add_up(s, s->n, s->n + 1, SIZE_MAX, e->model);
    int32_t most = INT32_MIN;
    if (!e->model || e->model != told->model)
        return;
    for (size_t i = s->n; i-- > told->since && last.n_near < SWITCH_NEAR;) {
        if (!embedded(s, i, e->model))
            continue;
        struct sums one = add_up(s, i, i + 1, SIZE_MAX, e->model);
        for (size_t d = 0; d < RECORD_EMBEDDING; d++)
            last.near[d] += one.near[d];
        last.n_near++;
        most = near_angle(&own, &one) > most ? near_angle(&own, &one) : most;
        int32_t so_far = near_angle(&own, &last);
        if (last.n_near == 1)
            told->now[0] = so_far;
        if (last.n_near <= 2)
            told->now[1] = so_far;
        told->now[2] = so_far;
    }
    struct sums segment = add_up(s, told->since, s->n, s->segment, e->model);
    struct sums session = add_up(s, told->since, s->n, SIZE_MAX, e->model);
    told->now[3] = segment.n_near ? near_angle(&own, &segment) : told->now[2];
    for (size_t k = 0; k < SWITCH_NEAR; k++) {
        in->x[SWITCH_NEAR_1 + k] = told->now[k];
        in->x[SWITCH_NEAR_1_UNUSUAL + k] =
            told->n ? told->now[k] - told->sum[k] / (int32_t)told->n : 0;
        told->sum[k] += told->now[k];
    }
    told->n++;
    in->x[SWITCH_NEAR_SESSION] = near_angle(&own, &session);
    in->x[SWITCH_NEAR_MOST] = most;
    in->embedding = true;
}

/* The message at s->n is nearer to the segment before the opener than to the opener. */
static bool fits_the_old(const struct scene *s, const struct told *told)
{
    uint32_t model = s->messages[s->n]->embedding.model;
    size_t since = told->model == model ? told->since : s->n;
    struct sums own = add_up(s, s->n, s->n + 1, SIZE_MAX, model);
    struct sums old = add_up(s, 0, s->n, s->segment - 1, 0);
    struct sums opener = add_up(s, s->n - 1, s->n, SIZE_MAX, 0);
    struct sums old_near = add_up(s, since, s->n, s->segment - 1, model);
    struct sums opener_near = add_up(s, s->n - 1, s->n, SIZE_MAX, model);
    if (model && model == told->model && old_near.n_near && opener_near.n_near)
        return near_angle(&own, &old_near) >= SWITCH_ONE / 4 &&
               near_angle(&own, &old_near) > near_angle(&own, &opener_near);
    return text_angle(&own, &old) >= SWITCH_ONE / 2 &&
           text_angle(&own, &old) > text_angle(&own, &opener);
}

static size_t begin_of(const struct scene *s)
{
    size_t i = 0;
    while (s->places[i].segment != s->segment)
        i++;
    return i;
}

/* Gives message s->n its score; true when it opens a segment. */
static bool judge(const struct scene *s, struct told *told, struct switch_threshold t)
{
    struct oracle_place *place = &s->places[s->n];
    struct switch_input in = {0};
    size_t begin = begin_of(s);
    look_at_marks(s, in.x);
    look_at_position(s, begin, in.x);
    look_at_overlap(s, begin, in.x);
    look_at_cosines(s, in.x);
    look_at_embeddings(s, told, &in);
    for (size_t i = 0; i < RECORD_EDGES; i++) {
        in.edge[i] = record(s, s->n)->edge[i];
        in.edge[RECORD_EDGES + i] = record(s, s->n - 1)->edge[i];
    }
    place->by_embedding = in.embedding;
    if (record(s, s->n)->n_vector || s->messages[s->n]->embedding.model)
        place->p = switch_probability(&in);
    return place->p >= (in.embedding ? t.embedding : t.text);
}

/* Numbers the segments of one session of n messages from `segment` on; returns the next number. */
static size_t walk(const struct oracle_view *view, size_t first, size_t n, size_t segment,
                   struct oracle_place *places)
{
    struct scene s = {.messages = view->messages + first, .places = places, .segment = segment};
    struct told told = {.model = 0};
    struct switch_threshold t =
        switch_threshold(epoch_switch_scores(view->epochs, kernel_day(s.messages[0]->t_us)));
    bool opened = false;
    for (; s.n < n; s.n++) {
        if (opened && fits_the_old(&s, &told))
            places[s.n - 1].segment = --s.segment;
        opened = s.n > 0 && judge(&s, &told, t);
        s.segment += opened;
        places[s.n].segment = s.segment;
        places[s.n].position = s.n;
        uint32_t model = s.messages[s.n]->embedding.model;
        if (model && model != told.model)
            told = (struct told){.model = model, .since = s.n};
    }
    return s.segment + 1;
}

void oracle_places(const struct oracle_view *view, struct oracle_place *ret)
{
    size_t run = 0, session = 0, segment = 0, first = 0;
    for (size_t i = 0; i < view->n_messages; i++) {
        bool pause =
            i > 0 && view->messages[i]->t_us - view->messages[i - 1]->t_us >= RECORD_SESSION_GAP_US;
        run += pause;
        if (pause || i - first == RECORD_SESSION_MAX) {
            segment = walk(view, first, i - first, segment, ret + first);
            session++;
            first = i;
        }
        ret[i] = (struct oracle_place){.run = run, .session = session};
    }
    if (view->n_messages)
        walk(view, first, view->n_messages - first, segment, ret + first);
}
