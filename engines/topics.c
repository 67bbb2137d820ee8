#include "engines/topics.h"

#include "core/hash.h"

#include <stdlib.h>
#include <string.h>

struct token {
    label_ref ref; /* 0 = free */
    uint32_t weight;
};

/* Open addressing by reference; a key has few distinct tokens for many occurrences. */
struct bag {
    struct token *slots;
    size_t n;
    size_t cap; /* a power of two, at least twice n */
};

static struct token *bag_slot(const struct bag *b, label_ref ref)
{
    size_t i = hash64_mix(ref) & (b->cap - 1);
    while (b->slots[i].ref && b->slots[i].ref != ref)
        i = (i + 1) & (b->cap - 1);
    return &b->slots[i];
}

static enum status bag_grow(struct bag *b)
{
    struct bag larger = {.n = b->n, .cap = b->cap ? b->cap * 2 : 256};
    larger.slots = calloc(larger.cap, sizeof(*larger.slots));
    if (!larger.slots)
        return STATUS_NOMEM;
    for (size_t i = 0; i < b->cap; i++)
        if (b->slots[i].ref)
            *bag_slot(&larger, b->slots[i].ref) = b->slots[i];
    free(b->slots);
    *b = larger;
    return STATUS_OK;
}

static enum status bag_add(struct bag *b, label_ref ref, uint32_t weight)
{
    if (2 * (b->n + 1) > b->cap && bag_grow(b) != STATUS_OK)
        return STATUS_NOMEM;
    struct token *t = bag_slot(b, ref);
    b->n += t->ref == 0;
    t->ref = ref;
    t->weight += weight;
    return STATUS_OK;
}

static void bag_clear(struct bag *b)
{
    if (b->n)
        memset(b->slots, 0, b->cap * sizeof(*b->slots));
    b->n = 0;
}

/* True when a is to be shown before b: heavier, then by its bytes. */
static bool token_before(const struct key_log *log, const struct token *a, const struct token *b)
{
    if (a->weight != b->weight)
        return a->weight > b->weight;
    struct str x = key_log_label(log, a->ref), y = key_log_label(log, b->ref);
    int order = memcmp(x.ptr, y.ptr, x.len < y.len ? x.len : y.len);
    return order < 0 || (order == 0 && x.len < y.len);
}

/* The three tokens to be shown first; returns how many there are. */
static size_t top_tokens(const struct key_log *log, const struct bag *bag, struct token top[3])
{
    size_t n = 0;
    for (size_t i = 0; i < bag->cap; i++) {
        const struct token *t = &bag->slots[i];
        size_t at = n;
        while (t->ref && at > 0 && token_before(log, t, &top[at - 1]))
            at--;
        if (!t->ref || at == 3)
            continue;
        n += n < 3;
        memmove(&top[at + 1], &top[at], (n - at - 1) * sizeof(*top));
        top[at] = *t;
    }
    return n;
}

static enum status collect_tokens(const struct key_log *log, const struct topics *t, size_t cluster,
                                  struct bag *bag)
{
    for (size_t i = 0; i < t->n; i++) {
        if (t->cluster[i] != cluster)
            continue;
        for (size_t j = t->starts[i]; j < t->starts[i] + t->segments[i]->n; j++) {
            const struct msg_rec *m = &log->messages[j];
            for (size_t l = 0; l < RECORD_LABELS && m->labels[l]; l++)
                if (bag_add(bag, m->labels[l], m->flags & MSG_BOT ? 1 : 2) != STATUS_OK)
                    return STATUS_NOMEM;
        }
    }
    return STATUS_OK;
}

static enum status label_topic(const struct key_log *log, const struct topics *t, size_t cluster,
                               struct bag *bag, struct cp_topic *topic)
{
    struct token top[3];
    bag_clear(bag);
    if (collect_tokens(log, t, cluster, bag) != STATUS_OK)
        return STATUS_NOMEM;
    size_t n = top_tokens(log, bag, top);
    char text[3 * (RECORD_LABEL_BYTES + 1)];
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        struct str token = key_log_label(log, top[i].ref);
        if (i > 0)
            text[len++] = ' ';
        memcpy(&text[len], token.ptr, token.len);
        len += token.len;
    }
    struct str label = str_cut((struct str){text, len}, sizeof(topic->label));
    memcpy(topic->label, label.ptr, label.len);
    topic->label_len = label.len;
    return STATUS_OK;
}

/*
 * Clusters in order of their mean valence in direction `sign`; equal ones by size, then by age
 * (the number of a cluster says nothing: it may have been given away).
 */
static size_t rank_topics(const struct cp_topic *sums, const size_t *born, int sign,
                          size_t ret[CP_TOPICS_TOP])
{
    size_t n = 0;
    for (size_t c = 0; c < SEGMENT_CLUSTERS_MAX; c++) {
        if (sums[c].n < CP_TOPIC_MIN || sums[c].valence_sum * sign <= 0)
            continue;
        size_t at = n;
        for (; at > 0; at--) {
            const struct cp_topic *other = &sums[ret[at - 1]];
            int order = sign * cp_valence_compare(&sums[c], other);
            if (order == 0)
                order = (sums[c].n > other->n) - (sums[c].n < other->n);
            if (order == 0)
                order = born[c] < born[ret[at - 1]] ? 1 : -1;
            if (order < 0)
                break;
        }
        if (at == CP_TOPICS_TOP)
            continue;
        n += n < CP_TOPICS_TOP;
        memmove(&ret[at + 1], &ret[at], (n - at - 1) * sizeof(*ret));
        ret[at] = c;
    }
    return n;
}

enum status topics_rank(const struct key_log *log, struct topics *t, struct cp_counts *out)
{
    struct cp_topic sums[SEGMENT_CLUSTERS_MAX];
    size_t born[SEGMENT_CLUSTERS_MAX] = {0};
    size_t positive[CP_TOPICS_TOP], negative[CP_TOPICS_TOP];
    segment_cluster(t->segments, t->n, t->cluster);
    memset(sums, 0, sizeof(sums));
    for (size_t i = t->n; i-- > 0;) {
        if (t->cluster[i] == SEGMENT_OTHER)
            continue;
        born[t->cluster[i]] = i;
        sums[t->cluster[i]].n += t->segments[i]->n_valence;
        sums[t->cluster[i]].valence_sum += t->segments[i]->valence_sum;
    }
    out->n_positive = rank_topics(sums, born, 1, positive);
    out->n_negative = rank_topics(sums, born, -1, negative);
    struct bag bag = {0};
    enum status st = STATUS_OK;
    for (size_t i = 0; i < out->n_positive && st == STATUS_OK; i++) {
        out->positive[i] = sums[positive[i]];
        st = label_topic(log, t, positive[i], &bag, &out->positive[i]);
    }
    for (size_t i = 0; i < out->n_negative && st == STATUS_OK; i++) {
        out->negative[i] = sums[negative[i]];
        st = label_topic(log, t, negative[i], &bag, &out->negative[i]);
    }
    free(bag.slots);
    return st;
}

enum status topics_label(const struct key_log *log, const struct topics *t, size_t cluster,
                         char ret[LIMIT_LABEL_BYTES], size_t *ret_len)
{
    struct bag bag = {0};
    struct cp_topic topic;
    enum status st = label_topic(log, t, cluster, &bag, &topic);
    free(bag.slots);
    if (st)
        return st;
    memcpy(ret, topic.label, topic.label_len);
    *ret_len = topic.label_len;
    return STATUS_OK;
}
