#include "engines/segment.h"

#include "engines/vector.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define WEIGHT_USER 2
#define WEIGHT_BOT  1

/* Largest entry of a centroid: every message of a session puts its largest weight into one bucket.
 */
_Static_assert(RECORD_SESSION_MAX *WEIGHT_USER * 127 <= INT16_MAX, "centroid entries fit int16_t");

struct centroid {
    int32_t w[VECTOR_DIMS];
    size_t first;   /* index of the segment's first record */
    bool has_topic; /* holds an informative user message */
};

static void centroid_start(struct centroid *c, size_t first)
{
    memset(c, 0, sizeof(*c));
    c->first = first;
}

static void centroid_add(struct centroid *c, const struct msg_rec *m)
{
    vector_add(c->w, m->vector, m->n_vector, m->flags & MSG_BOT ? WEIGHT_BOT : WEIGHT_USER);
}

/* The messages of a withdrawn candidate return to the segment they were taken from. */
static void centroid_merge(struct centroid *into, const struct centroid *from)
{
    for (size_t i = 0; i < VECTOR_DIMS; i++)
        into->w[i] += from->w[i];
}

/* Where a message stands to a centroid. */
struct bearing {
    int64_t dot;
    uint64_t norm2; /* of the centroid */
};

static struct bearing take_bearing(const struct centroid *c, const struct msg_rec *m)
{
    return (struct bearing){.dot = vector_dot(c->w, m->vector, m->n_vector),
                            .norm2 = vector_norm2(c->w)};
}

static bool leaves(struct bearing b, const struct msg_rec *m)
{
    return cosine_below(b.dot, m->norm2, b.norm2, 1, 10);
}

/* True when m takes the candidate back: it fits the old segment, and better than the candidate. */
static bool withdraws(const struct centroid *old, const struct centroid *candidate,
                      const struct msg_rec *m)
{
    struct bearing o = take_bearing(old, m), c = take_bearing(candidate, m);
    return !leaves(o, m) && cosine_compare(o.dot, o.norm2, c.dot, c.norm2) > 0;
}

/* Keeps the largest entries, in order of size; entry counts are small, so insertion is fastest. */
static void compress(const struct centroid *c, struct segment *s)
{
    s->n_vector = 0;
    s->norm2 = 0;
    for (size_t b = 0; b < VECTOR_DIMS; b++) {
        if (c->w[b] == 0)
            continue;
        size_t at = s->n_vector;
        while (at > 0 && abs(s->weight[at - 1]) < abs(c->w[b]))
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
        s->weight[at] = (int16_t)c->w[b];
    }
    for (size_t i = 0; i < s->n_vector; i++)
        s->norm2 += (uint64_t)((int64_t)s->weight[i] * s->weight[i]);
}

static void finish(const struct msg_rec *records, const struct centroid *c, size_t end,
                   struct segment *s)
{
    memset(s, 0, sizeof(*s));
    s->first = (uint16_t)c->first;
    s->n = (uint16_t)(end - c->first);
    for (size_t i = c->first; i < end; i++) {
        if (records[i].flags & MSG_BOT)
            continue;
        s->n_user++;
        if (!(records[i].flags & MSG_HAS_EMOTION))
            continue;
        s->n_valence++;
        s->valence_sum += records[i].valence;
    }
    compress(c, s);
}

static bool can_open(const struct msg_rec *m)
{
    return !(m->flags & MSG_BOT) && (m->flags & MSG_INFORMATIVE) && m->norm2 > 0;
}

size_t segment_session(const struct msg_rec *records, size_t n, struct segment *ret)
{
    assert(n >= 1);
    assert(n <= RECORD_SESSION_MAX);
    struct centroid two[2];
    struct centroid *current = &two[0], *candidate = &two[1];
    bool pending = false;
    size_t n_segments = 0;
    centroid_start(current, 0);
    for (size_t i = 0; i < n; i++) {
        const struct msg_rec *m = &records[i];
        if (!can_open(m)) {
            centroid_add(pending ? candidate : current, m);
            continue;
        }
        if (pending) {
            pending = false;
            if (withdraws(current, candidate, m)) {
                centroid_merge(current, candidate);
                centroid_add(current, m);
                continue;
            }
            finish(records, current, candidate->first, &ret[n_segments++]);
            struct centroid *spare = current;
            current = candidate;
            candidate = spare;
        }
        if (current->has_topic && leaves(take_bearing(current, m), m)) {
            pending = true;
            centroid_start(candidate, i);
            candidate->has_topic = true;
            centroid_add(candidate, m);
            continue;
        }
        current->has_topic = true;
        centroid_add(current, m);
    }
    if (pending)
        finish(records, current, candidate->first, &ret[n_segments++]);
    finish(records, pending ? candidate : current, n, &ret[n_segments]);
    return n_segments + (ret[n_segments].n_user > 0);
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
