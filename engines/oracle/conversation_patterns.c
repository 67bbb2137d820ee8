/*
 * The naive twin of engines/conversation_patterns.c: every sum by a loop over every message,
 * sessions and segments as numbers on messages (places.h), every centroid added up anew.
 * Shares only the formulas that turn counts into a row (conversation_patterns_row.h, kernels.h).
 */
#include "core/cleanup.h"
#include "engines/conversation_patterns_row.h"
#include "engines/oracle/places.h"
#include "engines/oracle/topics.h"
#include "engines/oracle/view.h"

#include <stdlib.h>
#include <string.h>

#define NONE        SIZE_MAX
#define DIMS        256
#define CLUSTERED   512
#define CLUSTERS    32
#define LEADER_COS2 16 /* cosine 1/4 as 1 / cos^2 */

struct note {
    const struct feature *f;
    const struct msg_rec *m;
    int64_t t_us;
    bool user;
    size_t run;
    size_t session;
    size_t segment;
};

struct vec {
    int64_t w[DIMS];
};

struct part {
    bool used; /* has a user message */
    struct vec v;
    size_t leader; /* the segment whose cluster it belongs to, or NONE */
    uint32_t n_emotion;
    int32_t valence_sum;
};

struct world {
    const struct oracle_view *view;
    struct note *notes;
    size_t n;
    struct part *parts; /* by segment number */
    size_t n_parts;
    struct cp_counts *out;
};

static bool emotional(const struct note *note)
{
    return note->user && note->m->flags & MSG_HAS_EMOTION;
}

static int64_t dot(const struct vec *a, const struct vec *b)
{
    int64_t sum = 0;
    for (size_t i = 0; i < DIMS; i++)
        sum += a->w[i] * b->w[i];
    return sum;
}

static struct vec centroid_of(const struct world *w, size_t segment)
{
    struct vec sum = {{0}};
    for (size_t i = 0; i < w->n; i++) {
        if (w->notes[i].segment != segment)
            continue;
        const struct msg_rec *m = w->notes[i].m;
        for (size_t e = 0; e < m->n_vector; e++)
            sum.w[m->vector[e].bucket] += (w->notes[i].user ? INT64_C(2) : 1) * m->vector[e].weight;
    }
    return sum;
}

/* cos(a, b)^2 >= 1 / inverse, with a positive product. */
static bool near(const struct vec *a, const struct vec *b, int64_t inverse)
{
    int64_t d = dot(a, b);
    return d > 0 && (int128)inverse * d * d >= (int128)dot(a, a) * dot(b, b);
}

/* Sign of cos(v, a) - cos(v, b). */
static int compare_cosines(const struct vec *v, const struct vec *a, const struct vec *b)
{
    int64_t da = dot(v, a), db = dot(v, b);
    if (da <= 0 || db <= 0)
        return (da > 0) - (db > 0);
    int128 x = (int128)da * da * dot(b, b), y = (int128)db * db * dot(a, a);
    return (x > y) - (x < y);
}

static enum status number_places(struct world *w)
{
    struct oracle_place *places = calloc(w->n + 1, sizeof(*places));
    if (!places)
        return STATUS_NOMEM;
    oracle_places(w->view, places);
    for (size_t i = 0; i < w->n; i++) {
        w->notes[i].run = places[i].run;
        w->notes[i].session = places[i].session;
        w->notes[i].segment = places[i].segment;
    }
    free(places);
    return STATUS_OK;
}

/* The 32 largest entries, the lower bucket of equals first. */
static struct vec largest_of(struct vec v)
{
    struct vec kept = {{0}};
    for (size_t k = 0; k < RECORD_VECTOR; k++) {
        size_t best = 0;
        for (size_t b = 1; b < DIMS; b++)
            if (llabs(v.w[b]) > llabs(v.w[best]))
                best = b;
        if (v.w[best] == 0)
            break;
        kept.w[best] = v.w[best];
        v.w[best] = 0;
    }
    return kept;
}

static enum status build(struct world *w)
{
    w->n_parts = w->n ? w->notes[w->n - 1].segment + 1 : 0;
    w->parts = calloc(w->n_parts + 1, sizeof(*w->parts));
    if (!w->parts)
        return STATUS_NOMEM;
    for (size_t i = w->n; i-- > 0;) {
        const struct note *note = &w->notes[i];
        struct part *p = &w->parts[note->segment];
        p->used = p->used || note->user;
        if (emotional(note)) {
            p->n_emotion++;
            p->valence_sum += note->m->valence;
        }
    }
    for (size_t s = 0; s < w->n_parts; s++)
        w->parts[s].v = largest_of(centroid_of(w, s));
    return STATUS_OK;
}

static void count(struct hist *h, uint32_t value)
{
    h->count[hist_bucket(value)]++;
}

static void count_speech(struct cp_speech *s, const struct msg_rec *m)
{
    if (!(m->flags & MSG_COMMON))
        return;
    s->n++;
    s->words += m->words;
    uint64_t left = m->common;
    for (size_t class = 0; class < RECORD_COMMON; class ++, left /= 16)
        s->common[class] += (uint32_t)(left % 16);
}

static void count_messages(const struct world *w)
{
    static const uint16_t flags[CP_FLAGS] = {MSG_QUESTION, MSG_EXCLAIM,     MSG_EMOJI,
                                             MSG_LINK,     MSG_UPPER_START, MSG_END_PUNCT};
    struct cp_counts *out = w->out;
    for (size_t i = 0; i < w->n; i++) {
        const struct msg_rec *m = w->notes[i].m;
        count_speech(w->notes[i].user ? &out->user : &out->bot, m);
        if (!w->notes[i].user)
            continue;
        out->n++;
        out->n_text += m->chars > 0;
        out->words_sum += m->words;
        out->words_sum2 += (int64_t)m->words * m->words;
        out->chars_sum += m->chars;
        count(&out->words, m->words);
        count(&out->chars, m->chars);
        for (size_t f = 0; f < CP_FLAGS; f++)
            out->flags[f] += (m->flags & flags[f]) != 0;
        for (size_t mark = 0; mark < RECORD_MARKS; mark++)
            out->marks[mark] += (m->marks[mark / 8] & 1 << mark % 8) != 0;
        if (emotional(&w->notes[i])) {
            out->n_emotion++;
            out->valence_sum += m->valence;
            out->valence_sum2 += (int64_t)m->valence * m->valence;
        }
        if (i > 0 && !w->notes[i - 1].user && w->notes[i - 1].run == w->notes[i].run)
            count(&out->latency_s, (uint32_t)((w->notes[i].t_us - w->notes[i - 1].t_us) / 1000000));
    }
}

/* Largest count first, then the smaller number; true when a must come before b. */
static bool more(const uint32_t *counts, size_t a, size_t b)
{
    return counts[a] > counts[b] || (counts[a] == counts[b] && a < b);
}

/* The rank of value a among all that occur, 0 = first. */
static size_t rank_of(const uint32_t *counts, size_t n, size_t a)
{
    size_t rank = 0;
    for (size_t b = 0; b < n; b++)
        if (b != a && counts[b] && more(counts, b, a))
            rank++;
    return rank;
}

static void count_tops(const struct world *w)
{
    uint32_t how[168] = {0}, emotions[256] = {0};
    struct cp_counts *out = w->out;
    for (size_t i = 0; i < w->n; i++) {
        if (!w->notes[i].user)
            continue;
        /* 1970-01-05 00:00 was a Monday. */
        int64_t since = w->notes[i].t_us - 96 * US_PER_HOUR;
        int64_t week = 168 * US_PER_HOUR;
        how[((since % week + week) % week) / US_PER_HOUR]++;
        if (emotional(&w->notes[i]))
            emotions[w->notes[i].m->emotion]++;
    }
    for (size_t i = 0; i < 168; i++) {
        size_t rank = how[i] ? rank_of(how, 168, i) : NONE;
        if (rank >= CP_HOW_TOP)
            continue;
        out->how[rank].how = (uint32_t)i;
        out->how[rank].count = how[i];
        out->n_how++;
    }
    for (size_t i = 0; i < 256; i++) {
        size_t rank = emotions[i] ? rank_of(emotions, 256, i) : NONE;
        if (rank >= CP_EMOTIONS_TOP)
            continue;
        out->dominant[rank].emotion = (uint8_t)i;
        out->dominant[rank].count = emotions[i];
        out->n_dominant++;
    }
}

static void count_sessions(const struct world *w)
{
    struct cp_counts *out = w->out;
    size_t counted = NONE; /* last session that a user message was found in */
    for (size_t i = 0; i < w->n; i++) {
        const struct note *note = &w->notes[i];
        if (i == 0 || note->run != w->notes[i - 1].run) {
            out->runs++;
            out->runs_by_user += note->user;
        }
        if (note->user && note->session != counted) {
            counted = note->session;
            out->n_sessions++;
        }
    }
    for (size_t s = 0; s < w->n_parts; s++) {
        uint32_t turns = 0;
        for (size_t i = 0; i < w->n; i++)
            turns += w->notes[i].segment == s && w->notes[i].user;
        if (turns == 0)
            continue;
        out->n_segments++;
        out->n_deep += turns >= CP_DEEP_TURNS;
        count(&out->turns, turns);
    }
}

static void count_emotion_pairs(const struct world *w)
{
    struct cp_counts *out = w->out;
    for (size_t i = 0; i < w->n; i++) {
        if (!emotional(&w->notes[i]))
            continue;
        size_t j = i + 1;
        while (j < w->n && !emotional(&w->notes[j]))
            j++;
        if (j == w->n || w->notes[j].session != w->notes[i].session)
            continue;
        const struct msg_rec *one = w->notes[i].m, *next = w->notes[j].m;
        pair_add(&out->lag1, one->valence, next->valence);
        if (one->valence < 0) {
            out->negatives++;
            out->recoveries += next->valence > 0;
        }
    }
}

static void count_lengths(const struct world *w)
{
    static const uint32_t upper[CP_LENGTHS] = {8, 16, 32, 64, 128, 256, 512, UINT32_MAX};
    struct cp_counts *out = w->out;
    for (size_t i = 0; i < w->n; i++) {
        const struct note *bot = &w->notes[i];
        if (bot->user)
            continue;
        bool replied = false;
        for (size_t j = i + 1; j < w->n; j++)
            replied =
                replied || (w->notes[j].user && w->notes[j].t_us <= bot->t_us + 30 * US_PER_MINUTE);
        if (!replied && w->view->as_of_us < bot->t_us + 30 * US_PER_MINUTE) {
            if (bot->t_us + 30 * US_PER_MINUTE < out->next_outcome_us)
                out->next_outcome_us = bot->t_us + 30 * US_PER_MINUTE;
            continue;
        }
        size_t b = 0;
        while (bot->m->words > upper[b])
            b++;
        out->length_n[b]++;
        out->length_k[b] += replied;
    }
}

static int compare_words(const void *a, const void *b)
{
    uint16_t x = *(const uint16_t *)a, y = *(const uint16_t *)b;
    return (x > y) - (x < y);
}

static enum status count_drift(const struct world *w)
{
    double medians[TREND_POINTS_MAX];
    size_t n = 0;
    uint16_t *words = malloc(w->n * sizeof(*words));
    if (!words)
        return STATUS_NOMEM;
    for (size_t i = 0; i < w->n;) {
        int32_t day = kernel_day(w->notes[i].t_us);
        size_t n_words = 0;
        for (; i < w->n && kernel_day(w->notes[i].t_us) == day; i++)
            if (w->notes[i].user)
                words[n_words++] = w->notes[i].m->words;
        if (n_words < CP_DRIFT_DAY_MIN)
            continue;
        qsort(words, n_words, sizeof(*words), compare_words);
        medians[n++] = hist_value(hist_bucket(words[(n_words + 1) / 2 - 1]));
    }
    free(words);
    w->out->drift = cp_drift_of(medians, n);
    return STATUS_OK;
}

/* The leader nearest to segment s, or NONE when it starts a topic of its own. */
static size_t find_leader(const struct world *w, size_t s)
{
    size_t best = NONE;
    for (size_t l = 0; l < s; l++) {
        if (w->parts[l].leader != l || !near(&w->parts[s].v, &w->parts[l].v, LEADER_COS2))
            continue;
        if (best == NONE || compare_cosines(&w->parts[s].v, &w->parts[l].v, &w->parts[best].v) > 0)
            best = l;
    }
    return best;
}

/* Gives up the smallest topic begun before segment s, the oldest of equals, if there are 32. */
static void make_room(const struct world *w, size_t s)
{
    size_t n = 0, worst = NONE, worst_members = 0;
    for (size_t l = 0; l < s; l++) {
        if (w->parts[l].leader != l)
            continue;
        n++;
        size_t members = 0;
        for (size_t i = l; i < s; i++)
            members += w->parts[i].leader == l;
        if (worst == NONE || members < worst_members) {
            worst = l;
            worst_members = members;
        }
    }
    if (n < CLUSTERS)
        return;
    for (size_t i = 0; i < s; i++)
        if (w->parts[i].leader == worst)
            w->parts[i].leader = NONE;
}

static void find_topics(const struct world *w)
{
    size_t used = 0;
    for (size_t s = 0; s < w->n_parts; s++) {
        w->parts[s].leader = NONE;
        used += w->parts[s].used;
    }
    for (size_t s = 0; s < w->n_parts; s++) {
        if (!w->parts[s].used || used-- > CLUSTERED || dot(&w->parts[s].v, &w->parts[s].v) == 0)
            continue;
        size_t leader = find_leader(w, s);
        if (leader == NONE) {
            make_room(w, s);
            leader = s;
        }
        w->parts[s].leader = leader;
    }
}

struct word {
    struct str text;
    uint32_t weight;
};

static int compare_word(const void *a, const void *b)
{
    const struct word *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight < y->weight ? 1 : -1;
    size_t n = x->text.len < y->text.len ? x->text.len : y->text.len;
    int order = memcmp(x->text.ptr, y->text.ptr, n);
    return order ? order : (x->text.len > y->text.len) - (x->text.len < y->text.len);
}

static enum status label(const struct world *w, size_t leader, struct cp_topic *topic)
{
    size_t n = 0;
    struct word *words = calloc(w->n * RECORD_LABELS, sizeof(*words));
    if (!words)
        return STATUS_NOMEM;
    for (size_t i = 0; i < w->n; i++) {
        if (w->parts[w->notes[i].segment].leader != leader)
            continue;
        for (size_t l = 0; l < w->notes[i].f->n_labels; l++) {
            struct str text = w->notes[i].f->labels[l];
            size_t at = 0;
            while (at < n && !str_equal(words[at].text, text))
                at++;
            n += at == n;
            words[at].text = text;
            words[at].weight += w->notes[i].user ? 2 : 1;
        }
    }
    qsort(words, n, sizeof(*words), compare_word);
    CLEANUP(buf_deinit) struct buf text;
    buf_init(&text, 1024);
    enum status st = STATUS_OK;
    for (size_t i = 0; i < n && i < 3 && st == STATUS_OK; i++)
        st = buf_printf(&text, i ? " " STR_FMT : STR_FMT, STR_ARGS(words[i].text));
    free(words);
    struct str cut = str_cut((struct str){text.data, text.len}, LIMIT_LABEL_BYTES);
    if (cut.len > 0)
        memcpy(topic->label, cut.ptr, cut.len);
    topic->label_len = cut.len;
    return st;
}

struct ranked {
    struct cp_topic sums;
    size_t leader;
};

static int compare_ranked(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    int order = cp_valence_compare(&y->sums, &x->sums);
    if (order)
        return order;
    if (x->sums.n != y->sums.n)
        return x->sums.n < y->sums.n ? 1 : -1;
    return (x->leader > y->leader) - (x->leader < y->leader);
}

/* sign 1: the liked ones; -1: the disliked ones, by turning every valence round. */
static enum status rank_topics(const struct world *w, int sign, struct cp_topic *ret, size_t *ret_n)
{
    struct ranked ranked[CLUSTERS];
    size_t n = 0;
    for (size_t l = 0; l < w->n_parts; l++) {
        if (w->parts[l].leader != l)
            continue;
        struct ranked r = {.leader = l};
        for (size_t s = l; s < w->n_parts; s++) {
            if (w->parts[s].leader != l)
                continue;
            r.sums.n += w->parts[s].n_emotion;
            r.sums.valence_sum += sign * w->parts[s].valence_sum;
        }
        if (r.sums.n >= CP_TOPIC_MIN && r.sums.valence_sum > 0)
            ranked[n++] = r;
    }
    qsort(ranked, n, sizeof(*ranked), compare_ranked);
    *ret_n = n < CP_TOPICS_TOP ? n : CP_TOPICS_TOP;
    for (size_t i = 0; i < *ret_n; i++) {
        ret[i] = ranked[i].sums;
        ret[i].valence_sum *= sign;
        enum status st = label(w, ranked[i].leader, &ret[i]);
        if (st != STATUS_OK)
            return st;
    }
    return STATUS_OK;
}

static void find_moments(const struct world *w)
{
    int64_t t = w->view->as_of_us, close_us = w->notes[w->n - 1].t_us + 60 * US_PER_MINUTE;
    int64_t hour = t - t % US_PER_HOUR;
    while (w->notes[0].t_us >= hour - 30 * US_PER_DAY)
        hour += US_PER_HOUR;
    w->out->next_expiry_us = hour;
    if (close_us > t)
        w->out->session_close_us = close_us;
}

static enum status fill(struct world *w)
{
    if (number_places(w) != STATUS_OK)
        return STATUS_NOMEM;
    count_messages(w);
    count_tops(w);
    count_lengths(w);
    if (w->n == 0)
        return STATUS_OK;
    enum status st = build(w);
    if (st != STATUS_OK)
        return st;
    count_sessions(w);
    count_emotion_pairs(w);
    find_moments(w);
    find_topics(w);
    if ((st = count_drift(w)) != STATUS_OK)
        return st;
    st = rank_topics(w, 1, w->out->positive, &w->out->n_positive);
    return st == STATUS_OK ? rank_topics(w, -1, w->out->negative, &w->out->n_negative) : st;
}

static enum status take_notes(struct world *w)
{
    w->notes = calloc(w->n + 1, sizeof(*w->notes));
    if (!w->notes)
        return STATUS_NOMEM;
    for (size_t i = 0; i < w->n; i++) {
        const struct feature *f = w->view->messages[i];
        w->notes[i].f = f;
        w->notes[i].m = &f->u.message;
        w->notes[i].t_us = f->t_us;
        w->notes[i].user = !(f->u.message.flags & MSG_BOT);
    }
    return STATUS_OK;
}

static enum status tell_topics(const struct world *w, struct oracle_topic *ret)
{
    enum status st = STATUS_OK;
    for (size_t i = 0; i < w->n && st == STATUS_OK; i++) {
        size_t segment = w->notes[i].segment, topic = w->parts[segment].leader;
        ret[i] = (struct oracle_topic){.run = w->notes[i].run,
                                       .segment = segment,
                                       .topic = topic == NONE ? ORACLE_NO_TOPIC : topic};
        if (topic != segment || (i > 0 && w->notes[i - 1].segment == segment))
            continue;
        struct cp_topic labelled = {.label_len = 0};
        st = label(w, topic, &labelled);
        memcpy(ret[i].label, labelled.label, labelled.label_len);
        ret[i].label_len = labelled.label_len;
    }
    return st;
}

enum status oracle_topics(const struct oracle_view *view, struct oracle_topic *ret)
{
    struct world w = {.view = view, .n = view->n_messages};
    enum status st = take_notes(&w);
    if (st == STATUS_OK && w.n > 0)
        st = number_places(&w);
    if (st == STATUS_OK && w.n > 0)
        st = build(&w);
    if (st == STATUS_OK && w.n > 0) {
        find_topics(&w);
        st = tell_topics(&w, ret);
    }
    free(w.notes);
    free(w.parts);
    return st;
}

static enum status emit(const struct oracle_view *view, struct row *row, struct error *err)
{
    struct cp_counts out = {.as_of_us = view->as_of_us,
                            .truncated = view->truncated,
                            .epoch = epoch_at(view->epochs, kernel_day(view->as_of_us)),
                            .next_expiry_us = INT64_MAX,
                            .session_close_us = INT64_MAX,
                            .next_outcome_us = INT64_MAX};
    struct world w = {.view = view, .n = view->n_messages, .out = &out};
    enum status st = take_notes(&w);
    if (st != STATUS_OK)
        return error_set(err, st, "could not allocate the oracle's messages");
    st = fill(&w);
    free(w.notes);
    free(w.parts);
    if (st != STATUS_OK)
        return error_set(err, st, "could not recount conversation patterns");
    return cp_write(&out, row, err);
}

extern const struct oracle_ops oracle_conversation_patterns;
const struct oracle_ops oracle_conversation_patterns = {
    .engine = "conversation_patterns",
    .emit = emit,
};
